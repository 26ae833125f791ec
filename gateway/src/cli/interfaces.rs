//! `portcullis interfaces`: network interfaces as the kernel shows them to everybody (sysfs(5), getifaddrs(3)), beside
//! what the daemon says of its packet filter there.

use super::Context;
use super::output::{Failure, Outcome};
use super::table::{Paint, Table};
use crate::ctl::protocol::{Command, XdpInterfaceStatus, XdpStatus};
use crate::exit::Exit;
use crate::settings::{self, Standing};
use crate::tools::interfaces::{INTERFACES, look};

pub(super) fn run(context: &Context) -> Outcome {
    let filtered = match context.call::<XdpStatus>(&Command::XdpStatus {}) {
        Ok(status) => status.interfaces,
        Err(failure) => {
            context.output.warn(format!("the daemon cannot be asked about the filter: {}", failure.message));
            Vec::new()
        }
    };
    match settings::standing() {
        Some(Standing::NotApplied(why)) => {
            context.output.warn(format!("[network] of the configuration was not applied: {why}"));
        }
        Some(Standing::UnderWay { since }) => {
            context
                .output
                .warn(format!("[network] of the configuration is being applied since {since}, and not done"));
        }
        Some(Standing::Applied) | None => {}
    }
    let mut interfaces = look().map_err(|error| Failure::file("list", INTERFACES.as_ref(), &error))?;
    for interface in &mut interfaces {
        let filter = filtered.iter().find(|filter| filter.name == interface.name);
        interface.role = filter.map(|filter| filter.role.clone());
        interface.xdp = filter.map(|filter| filter.mode.clone());
        interface.why = why(filter);
    }
    let mut table = Table::new()
        .column("INTERFACE")
        .column("STATE")
        .column("DRIVER")
        .column("ROLE")
        .column("XDP")
        .column("QUEUES")
        .number("MTU")
        .wide("ADDRESSES")
        .wide("WHY");
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for interface in &interfaces {
        let state = if interface.state == "up" { Paint::Good } else { Paint::Plain };
        let xdp = match interface.xdp.as_deref() {
            Some("driver") => Paint::Good,
            Some(_) => Paint::Doubtful,
            None => Paint::Plain,
        };
        let cells = [
            interface.name.clone(),
            interface.state.clone(),
            dash(&interface.driver),
            dash(&interface.role),
            dash(&interface.xdp),
            format!("{} in, {} out", interface.receive_queues, interface.transmit_queues),
            interface.mtu.to_string(),
            interface.addresses.join(" "),
            interface.why.clone(),
        ];
        table.row(cells, &[(1, state), (4, xdp)]);
    }
    context.output.value_or_table(&interfaces, &table)?;
    Ok(Exit::Ok)
}

fn why(filter: Option<&XdpInterfaceStatus>) -> String {
    match filter {
        None => "no [[xdp.interface]] names it".to_owned(),
        Some(filter) if !filter.attached => filter.condition.clone(),
        Some(XdpInterfaceStatus { vlan_of: Some(trunk), .. }) => format!("by its tag, at {trunk}"),
        Some(filter) if filter.role == "none" => {
            "for its VLANs that have roles; what has no tag is dropped".to_owned()
        }
        Some(filter) => filter.mode_reason.clone(),
    }
}
