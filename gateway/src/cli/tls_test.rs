//! `portcullis tls-test`: what a server's TLS looks like from the gateway, and whether it is believed.

use super::args::TlsTest;
use super::output::Outcome;
use super::table::{Paint, Table};
use super::{Context, read_small};
use crate::ctl::protocol::{Command, TlsTestOrder, TlsTested};
use crate::exit::Exit;

/// Days before its end that a certificate should be renewed by.
const SOON_DAYS: i64 = 30;

pub(super) fn run(context: &Context, test: &TlsTest) -> Outcome {
    let ca = test.ca.as_deref().map(read_small).transpose()?.map(|text| text.as_str().to_owned());
    let order = TlsTestOrder {
        target: test.target.to_string(),
        server_name: test.server_name.clone(),
        ca,
        trust: test.trust.clone(),
    };
    let tested: TlsTested = context.call(&Command::TlsTest(order))?;
    let exit = if tested.verified { Exit::Ok } else { Exit::Negative };
    if context.output.json {
        context.output.json(&tested)?;
        return Ok(exit);
    }
    let mut table = Table::new().column("").wide("");
    let verdict = if tested.verified { ("believed", Paint::Good) } else { ("NOT believed", Paint::Bad) };
    let why = if tested.problem.is_empty() { String::new() } else { format!(": {}", tested.problem) };
    let mut row = |name: &str, value: String, paint| {
        table.row([name.to_owned(), value], &[(0, Paint::Title), (1, paint)]);
    };
    row("server", format!("{} as {}", tested.address, tested.server_name), Paint::Plain);
    row("verification", format!("{}{why} (by {})", verdict.0, tested.trust), verdict.1);
    row("version", tested.version.clone(), Paint::Plain);
    row("suite", tested.suite.clone(), Paint::Plain);
    row("group", tested.group.clone().unwrap_or_else(|| "-".to_owned()), Paint::Plain);
    let times = format!("{:.1} ms to connect, {:.1} ms for TLS", tested.connect_ms, tested.handshake_ms);
    row("time", times, Paint::Plain);
    for (index, certificate) in tested.chain.iter().enumerate() {
        row(&format!("certificate {}", index + 1), certificate.subject.clone(), Paint::Plain);
        row("  issuer", certificate.issuer.clone(), Paint::Plain);
        if !certificate.names.is_empty() {
            row("  names", certificate.names.join(" "), Paint::Plain);
        }
        let (text, paint) = match certificate.days_left {
            days if days < 0 => (format!("expired {} days ago", -days), Paint::Bad),
            days if days < SOON_DAYS => (format!("{days} days left"), Paint::Doubtful),
            days => (format!("{days} days left"), Paint::Plain),
        };
        row("  valid", format!("{} to {}, {text}", certificate.not_before, certificate.not_after), paint);
        row("  key", certificate.key.clone(), Paint::Plain);
        row("  SHA-256", certificate.sha256.clone(), Paint::Plain);
    }
    context.output.text(&table.render(context.output.width(), context.output.colour))?;
    Ok(exit)
}
