//! Starting the machine again, switching it off, and making it what it was when it came: asked of the system by a file in a directory that only the daemon
//! writes to, and that the system watches (systemd.path(5)). Where there is no such directory, nobody said that the
//! gateway may do that. The daemon itself has no such privilege.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use super::Outcome;
use crate::ctl::protocol::{ErrorCode, Failure, MachineAction, MachineOrder};

/// Where requests are put.
const REQUESTS: &str = "/run/portcullis-requests";

pub(super) fn ask(order: &MachineOrder) -> Outcome<MachineOrder> {
    ask_in(Path::new(REQUESTS), order)
}

fn ask_in(directory: &Path, order: &MachineOrder) -> Outcome<MachineOrder> {
    let name = match (order.action, order.keep_network) {
        (MachineAction::Reboot, false) => "reboot",
        (MachineAction::PowerOff, false) => "power-off",
        (MachineAction::FactoryReset, false) => "factory-reset",
        (MachineAction::FactoryReset, true) => "factory-reset-keep-network",
        (_, true) => return Err(Failure::bad_request("`keep_network` belongs to factory-reset")),
    };
    match OpenOptions::new().write(true).create(true).truncate(true).open(directory.join(name)) {
        Ok(_) => {
            tracing::warn!(action = name, "an operator asked for it");
            Ok(order.clone())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = "the gateway may not do that on this machine: only the appliance lets it";
            Err(Failure::new(ErrorCode::Unavailable, text))
        }
        Err(error) => {
            let text = format!("cannot ask for it in {}: {error}", directory.display());
            Err(Failure::new(ErrorCode::Internal, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_file_and_without_its_directory_it_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        let order = MachineOrder { action: MachineAction::PowerOff, keep_network: false };
        ask_in(directory.path(), &order).unwrap();
        assert!(directory.path().join("power-off").is_file());
        let reset = MachineOrder { action: MachineAction::FactoryReset, keep_network: true };
        ask_in(directory.path(), &reset).unwrap();
        assert!(directory.path().join("factory-reset-keep-network").is_file());
        let nonsense = MachineOrder { keep_network: true, ..order.clone() };
        assert_eq!(ask_in(directory.path(), &nonsense).unwrap_err().code, ErrorCode::BadRequest);
        let refused = ask_in(&directory.path().join("absent"), &order).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable);
    }
}
