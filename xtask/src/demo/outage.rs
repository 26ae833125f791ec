//! The farm's ticket authority goes down and comes back.

use anyhow::ensure;
use portcullis_tests::gateway::Setup;

use super::report::Reporter;
use super::stage::{STA_NAME, Stage};

pub(crate) fn run(stage: &mut Stage, reporter: &mut Reporter) {
    let mut kept: Option<Setup> = None;
    let mut ticket = String::new();
    reporter.step("STA down: the gateway notices", || {
        ticket = stage.issue(stage.farm.web, &[])?;
        kept = Some(stage.stop_sta()?);
        stage.wait_for_sta(false)?;
        Ok(format!("portcullis_sta_up{{sta=\"{STA_NAME}\"}} is 0"))
    });
    reporter.step("STA down: a ticket that it issued before is refused", || {
        ensure!(!ticket.is_empty(), "there is no ticket");
        let output = stage.try_ticket(&ticket)?;
        ensure!(!output.success(), "the gateway opened a session without its STA");
        Ok(format!("exit status {}: {}", output.code.unwrap_or(-1), output.stderr.trim()))
    });
    reporter.step("STA down: tickets of the gateway's own authority still work", || {
        let ticket = stage.issue_locally(stage.farm.web)?;
        stage.fetch(stage.connect("socks5", &ticket)?)?;
        Ok(String::from("one dead authority does not stop another"))
    });
    reporter.step("STA back: the gateway notices, and tickets work again", || {
        if let Some(setup) = kept.take() {
            stage.start_sta(setup)?;
        }
        stage.wait_for_sta(true)?;
        let ticket = stage.issue(stage.farm.web, &[])?;
        stage.fetch(stage.connect("socks5", &ticket)?)?;
        Ok(format!("portcullis_sta_up{{sta=\"{STA_NAME}\"}} is 1"))
    });
}
