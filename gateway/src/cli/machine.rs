//! `portcullis reboot`, `shutdown` and `resolve`.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs as _};

use portcullis_proto::host_port::HostPort;

use super::Context;
use super::output::{Failure, Outcome};
use crate::ctl::protocol::{Command, MachineAction, MachineOrder};
use crate::exit::Exit;

pub(super) fn order(context: &Context, action: MachineAction) -> Outcome {
    let done: MachineOrder = context.call(&Command::Machine(MachineOrder { action }))?;
    let text = match action {
        MachineAction::Reboot => "the machine starts again; sessions have the drain's time to end",
        MachineAction::PowerOff => "the machine switches itself off; sessions have the drain's time to end",
    };
    context.output.value_or_text(&done, text)?;
    Ok(Exit::Ok)
}

/// By the system's resolver, which waits as long as that is configured to.
pub(super) fn resolve(context: &Context, name: &str) -> Outcome {
    // The parser of names for sessions: what that refuses is no question for a name server either.
    HostPort::parse(&format!("{name}:1"))
        .map_err(|error| Failure::new(Exit::Usage, format!("`{name}` is no name: {error}")))?;
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("{name}: {error}")))?;
    let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
    let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    context.output.value_or_text(&addresses, &lines.join("\n"))?;
    Ok(Exit::Ok)
}
