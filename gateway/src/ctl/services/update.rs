//! Updates: orders become files that the system watches, as for the machine itself; what comes of them is in the status
//! that the job writes. One order at a time.

use std::io::ErrorKind;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Outcome;
use crate::ctl::protocol::{ErrorCode, Failure, UpdateAsked, UpdateState, UpdateStatus};
use crate::update::{Order, Places, Request, read_json, write_json};

/// Only the job reads it.
const MODE: u32 = 0o600;

pub(super) fn ask(places: &Places, order: Order) -> Outcome<UpdateAsked> {
    let status = status(places)?;
    let waits = places.request.try_exists().unwrap_or(false);
    if waits || status.job.is_some_and(|job| job.state == UpdateState::Running) {
        let text = "another update is under way: `update status` tells how it goes";
        return Err(Failure::new(ErrorCode::Refused, text));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = Request { id: now.as_micros().to_string(), order };
    tracing::warn!(action = request.order.name(), "an operator asked for an update");
    match write_json(&places.request, &request, MODE) {
        Ok(()) => Ok(UpdateAsked { id: request.id }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(nowhere()),
        Err(error) => {
            let text = format!("cannot ask for it at {}: {error}", places.request.display());
            Err(Failure::new(ErrorCode::Internal, text))
        }
    }
}

pub(super) fn status(places: &Places) -> Outcome<UpdateStatus> {
    match read_json(&places.status()) {
        Ok(status) => Ok(status),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(nowhere()),
        Err(error) => {
            let text = format!("{} cannot be read: {error}", places.status().display());
            Err(Failure::new(ErrorCode::Internal, text))
        }
    }
}

fn nowhere() -> Failure {
    let text = "this machine does not update itself this way: only the appliance does, once it has started";
    Failure::new(ErrorCode::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_file_and_a_second_one_waits_for_the_first() {
        let place = tempfile::tempdir().unwrap();
        let places = Places {
            request: place.path().join("update"),
            run: place.path().to_owned(),
            ..Places::default()
        };
        assert_eq!(ask(&places, Order::Rollback {}).unwrap_err().code, ErrorCode::Unavailable);
        write_json(&places.status(), &UpdateStatus::default(), 0o644).unwrap();
        let asked = ask(&places, Order::Rollback {}).unwrap();
        let request: Request = read_json(&places.request).unwrap();
        assert_eq!((request.id, request.order), (asked.id, Order::Rollback {}));
        assert_eq!(ask(&places, Order::Rollback {}).unwrap_err().code, ErrorCode::Refused);
    }
}
