//! `portcullis high-availability`

use super::Context;
use super::args::Push;
use super::configure::{coloured, planned};
use super::output::Outcome;
use super::table::{Paint, Table};
use crate::ctl::protocol::{Command, HaStatus, PushOrder, Pushed};
use crate::exit::Exit;

pub(super) fn show(context: &Context) -> Outcome {
    let status: HaStatus = context.call(&Command::HighAvailability {})?;
    let output = &context.output;
    if output.json {
        output.json(&status)?;
        return Ok(Exit::Ok);
    }
    let mut facts = Table::new().column("").wide("");
    let standing = match &status.reason {
        Some(reason) => (format!("{}: {reason}", status.standing), Paint::Bad),
        None => (status.standing.clone(), Paint::Good),
    };
    let sync = match (status.sync, &status.in_common_since) {
        (false, _) => "given to nobody: the peer's fingerprint is not set".to_owned(),
        (true, None) => "never given or taken".to_owned(),
        (true, Some(at)) => format!("the same as the peer's at {at}"),
    };
    let plain = |name, value: String| (name, value, Paint::Plain);
    for (name, value, paint) in [
        ("state", status.state.clone(), paint(&status.state)),
        plain("since", format!("{}, {} changes", status.since, status.changes)),
        ("this appliance", standing.0, standing.1),
        plain("priority", status.priority.to_string()),
        plain(
            "address",
            format!("{} on {}, router id {}", status.address, status.interface, status.router_id),
        ),
        plain("peer", status.peer.clone()),
        plain("configuration", sync),
        plain("fingerprint", status.fingerprint.clone()),
    ] {
        facts.row([name.to_owned(), value], &[(0, Paint::Title), (1, paint)]);
    }
    let mut addresses = Table::new().column("VIRTUAL ADDRESS").column("INTERFACE").column("HERE");
    for row in &status.virtual_addresses {
        let here = if row.here { "yes" } else { "no" };
        addresses.row([row.address.clone(), row.interface.clone(), here.to_owned()], &[(0, Paint::Title)]);
    }
    let (width, colour) = (output.width(), output.colour);
    output.text(&format!("{}\n{}", facts.render(width, colour), addresses.render(width, colour)))?;
    Ok(Exit::Ok)
}

pub(super) fn push(context: &Context, push: &Push) -> Outcome {
    let order = PushOrder { dry_run: push.dry_run, force: push.force, comment: push.comment.clone() };
    let done: Pushed = context.call(&Command::ConfigPush(order))?;
    let taken = &done.taken;
    let mut text = coloured(&taken.diff, context.output.colour);
    let name = format!("{} ({})", taken.host, done.peer);
    if taken.diff.is_empty() {
        text = format!("{name} has the same configuration already\n");
    } else if push.dry_run {
        text.push_str(&planned("would change at once", &taken.live));
        text.push_str(&planned("would wait for a restart of portcullisd there", &taken.restart));
        if taken.diverged {
            let hint =
                "it has changes of its own since both were the same: only --force would replace them\n";
            text.push_str(hint);
        }
    } else {
        text = format!("in force at {name} as its commit {}\n", taken.number);
        text.push_str(&planned("changed", &taken.live));
        text.push_str(&planned("needs a restart of portcullisd there", &taken.restart));
        if done.confirmed {
            text.push_str("confirmed there, as the peer can still be reached\n");
        }
    }
    context.output.value_or_text(&done, &text)?;
    Ok(Exit::Ok)
}

/// Either of the two states that are no trouble looks good.
pub(super) fn paint(state: &str) -> Paint {
    if matches!(state, "master" | "backup") { Paint::Good } else { Paint::Bad }
}
