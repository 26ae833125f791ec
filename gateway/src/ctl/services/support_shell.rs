//! Whether an administrator may have a Unix shell now. The daemon grants; the system opens, see [`crate::support_shell`].

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, ShellGranted, ShellOrder};
use crate::log::rfc3339;
use crate::role::Caller;
use crate::support_shell::{
    GRANTS, Grant, REASON_MAX_CHARS, SOCKET, TIME_DEFAULT, TIME_MAX, TIME_MIN, grant_file,
};
use crate::update::write_json;

/// Only the daemon and the system read it.
const MODE: u32 = 0o600;

impl Services {
    pub(super) fn grant_shell(&self, caller: &Caller, order: &ShellOrder) -> Outcome<ShellGranted> {
        if !self.config.load().support_shell {
            let text = "support shells are switched off: `configure set support.shell true`, then `configure commit`";
            return Err(Failure::new(ErrorCode::Refused, text));
        }
        if !Path::new(SOCKET).exists() {
            let text = "this machine has no support shell: only the appliance has";
            return Err(Failure::new(ErrorCode::Unavailable, text));
        }
        let granted = grant(Path::new(GRANTS), caller, order)?;
        tracing::warn!(
            who = caller.name,
            until = granted.until,
            reason = order.reason,
            "a support shell is granted"
        );
        Ok(granted)
    }
}

fn grant(directory: &Path, caller: &Caller, order: &ShellOrder) -> Outcome<ShellGranted> {
    let reason = order.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX_CHARS || reason.chars().any(char::is_control)
    {
        let text = format!(
            "say why, in one line of at most {REASON_MAX_CHARS} characters: it goes into the audit log"
        );
        return Err(Failure::bad_request(text));
    }
    let time = order.seconds.map_or(TIME_DEFAULT, Duration::from_secs);
    if !(TIME_MIN..=TIME_MAX).contains(&time) {
        let (least, most) = (TIME_MIN.as_secs() / 60, TIME_MAX.as_secs() / 3600);
        return Err(Failure::bad_request(format!("a support shell lasts {least} minute to {most} hours")));
    }
    let mut random = [0; 16];
    let failed =
        |error: String| Failure::new(ErrorCode::Internal, format!("nothing can be granted: {error}"));
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| failed("the system has no random numbers".to_owned()))?;
    let ticket: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = grant_file(directory, &ticket).ok_or_else(|| failed("its name".to_owned()))?;
    let now = SystemTime::now();
    let grant = Grant {
        origin: caller.origin(),
        reason: reason.to_owned(),
        seconds: time.as_secs(),
        granted: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    write_json(&file, &grant, MODE).map_err(|error| failed(format!("{}: {error}", directory.display())))?;
    let until = rfc3339(now + time);
    Ok(ShellGranted { ticket, socket: SOCKET.to_owned(), seconds: time.as_secs(), until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;
    use crate::update::read_json;

    #[test]
    fn a_grant_needs_a_reason_and_an_end_and_is_a_file_with_both() {
        let place = tempfile::tempdir().unwrap();
        let caller = Caller { uid: 7, name: "ann".into(), role: Role::Administrator, claimed_from: None };
        let order = |reason: &str, seconds| ShellOrder { reason: reason.to_owned(), seconds };
        for bad in [
            order("", None),
            order("  ", None),
            order("a\u{1b}[2J", None),
            order(&"x".repeat(201), None),
            order("a disk", Some(59)),
            order("a disk", Some(4 * 3600 + 1)),
        ] {
            assert_eq!(
                grant(place.path(), &caller, &bad).unwrap_err().code,
                ErrorCode::BadRequest,
                "{bad:?}"
            );
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        let granted = grant(place.path(), &caller, &order(" a disk ", None)).unwrap();
        let file: Grant = read_json(&grant_file(place.path(), &granted.ticket).unwrap()).unwrap();
        assert_eq!((file.reason.as_str(), file.seconds, file.origin.uid), ("a disk", 1800, Some(7)));
        assert!(!format!("{granted:?}").contains(&granted.ticket));
    }
}
