//! `portcullis reboot`, `shutdown` and `factory-reset`; and the system's own `settings-job`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use super::Context;
use super::args::FactoryReset;
use super::output::{Failure, Outcome, complain};
use crate::ctl::protocol::{Command, MachineAction, MachineOrder};
use crate::exit::Exit;
use crate::settings::job;

pub(super) fn order(context: &Context, action: MachineAction) -> Outcome {
    let done: MachineOrder = context.call(&Command::Machine(MachineOrder { action, keep_network: false }))?;
    let text = match action {
        MachineAction::Reboot => "the machine starts again; sessions have the drain's time to end",
        MachineAction::PowerOff => "the machine switches itself off; sessions have the drain's time to end",
        MachineAction::FactoryReset => "the machine starts again as it was when it came",
    };
    context.output.value_or_text(&done, text)?;
    Ok(Exit::Ok)
}

/// What must be typed.
const CONSENT: &str = "reset";
const CONSENT_MAX_BYTES: u64 = 100;

pub(super) fn factory_reset(context: &Context, reset: &FactoryReset) -> Outcome {
    if !reset.yes {
        if !io::stdin().is_terminal() {
            let text = "nobody can be asked here: with `--yes` it is done, and configuration, keys and logs are lost";
            return Err(Failure::new(Exit::Usage, text));
        }
        complain(
            "Configuration, certificates, keys, logs, bans and captures will be lost, sessions end, and the machine starts as \
             it was when it came.\nWho may log in is then what the machine is told at a first boot: without that nobody gets \
             in.",
        );
        complain(&format!("Type `{CONSENT}` if this is to be:"));
        let mut typed = String::new();
        io::stdin().lock().take(CONSENT_MAX_BYTES).read_line(&mut typed)?;
        if typed.trim() != CONSENT {
            return Err(Failure::new(Exit::Negative, "nothing was done"));
        }
    }
    let order = MachineOrder { action: MachineAction::FactoryReset, keep_network: reset.keep_network };
    let done: MachineOrder = context.call(&Command::Machine(order))?;
    let kept = if reset.keep_network { "the network's settings" } else { "nothing of what it knew" };
    context
        .output
        .value_or_text(&done, &format!("the machine starts again as it was when it came; {kept} is kept"))?;
    Ok(Exit::Ok)
}

/// The job itself, as root.
pub(super) fn settings_job() -> Outcome {
    let _log = crate::log::init_early().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let done = job::run_job(&job::Places::default())
        .map_err(|error| Failure::new(Exit::Internal, format!("the status cannot be written: {error}")))?;
    Ok(if done { Exit::Ok } else { Exit::Negative })
}
