//! Who may log in to the appliance: what there is, and grants for changes, which the system makes. See [`crate::access`].

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{Outcome, reply};
use crate::access::{Change, Done, Grant, Listed, Places, USED_WITHIN, User, file_of, unix_now};
use crate::ctl::protocol::{
    AccessChanged, AccessKey, AccessOrder, AccessRow, Answer, Command, ErrorCode, Failure,
};
use crate::log::rfc3339;
use crate::role::Caller;
use crate::update::{read_json, write_json};

/// Only the system reads it.
const MODE: u32 = 0o600;
const LOOK: Duration = Duration::from_millis(50);
const FINGERPRINT_MAX_CHARS: usize = 64;

/// Does what a command about access says.
pub(super) async fn answer(caller: &Caller, command: Command) -> Answer {
    let places = Places::default();
    match command {
        Command::AccessList {} => reply(list(&places)),
        Command::AccessChange(order) => reply(change(&places, caller, &order).await),
        _ => reply::<()>(Err(Failure::new(ErrorCode::Internal, "nobody answers this request"))),
    }
}

fn list(places: &Places) -> Outcome<Vec<AccessRow>> {
    if !places.are_here() {
        return Err(nowhere());
    }
    let row = |user: User| {
        let keys =
            places.listed(user).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        Ok(AccessRow {
            user,
            role: user.role().as_str().to_owned(),
            keys: keys.into_iter().map(key).collect(),
            password_since: places.password_since(user).map(rfc3339),
        })
    };
    User::ALL.into_iter().map(row).collect()
}

fn key(key: Listed) -> AccessKey {
    let Listed { fingerprint, kind, bits, comment, added, options } = key;
    AccessKey { fingerprint, kind, bits: Some(bits).filter(|bits| *bits > 0), comment, added, options }
}

/// Grants a change, and waits for what the system makes of it.
async fn change(places: &Places, caller: &Caller, order: &AccessOrder) -> Outcome<AccessChanged> {
    if !places.are_here() {
        return Err(nowhere());
    }
    check(&order.change)?;
    let no_ticket = || Failure::bad_request("the ticket is 32 hexadecimal digits, drawn for this change");
    let grant = file_of(&places.grants, &order.ticket).ok_or_else(no_ticket)?;
    let result = file_of(&places.results, &order.ticket).ok_or_else(no_ticket)?;
    if grant.exists() || result.exists() {
        return Err(no_ticket());
    }
    let granted = Grant { origin: caller.origin(), change: order.change.clone(), granted: unix_now() };
    let failed = |error: std::io::Error| {
        Failure::new(ErrorCode::Internal, format!("cannot grant it at {}: {error}", grant.display()))
    };
    write_json(&grant, &granted, MODE).map_err(failed)?;
    let ends = Instant::now() + USED_WITHIN;
    while Instant::now() < ends {
        match read_json::<Done>(&result) {
            Ok(Done { done: true, told }) => return Ok(AccessChanged { told }),
            Ok(Done { told, .. }) => return Err(Failure::new(ErrorCode::Refused, told)),
            Err(error) if error.kind() == ErrorKind::NotFound => tokio::time::sleep(LOOK).await,
            Err(error) => return Err(Failure::new(ErrorCode::Internal, format!("{error}"))),
        }
    }
    // What nobody has taken is not granted any more.
    std::fs::remove_file(&grant).ok();
    let text = "the system has not done it: whoever changes who may log in waits at appliance-access.socket meanwhile, as \
                `portcullis access` does; `show log --all` may say more";
    Err(Failure::new(ErrorCode::Unavailable, text))
}

/// What goes into a log and a file must be what it says it is.
fn check(change: &Change) -> Outcome<()> {
    let (Change::KeyAdd { fingerprint, .. } | Change::KeyRemove { fingerprint, .. }) = change else {
        return Ok(());
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "+/:=".contains(c);
    if fingerprint.starts_with("SHA256:")
        && fingerprint.len() <= FINGERPRINT_MAX_CHARS
        && fingerprint.chars().all(legal)
    {
        return Ok(());
    }
    Err(Failure::bad_request("a fingerprint is SHA256:…, as `access list` and `ssh-keygen -l` show it"))
}

fn nowhere() -> Failure {
    let text =
        "who may log in to this machine is not the gateway's: only the appliance lets it be changed here";
    Failure::new(ErrorCode::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;

    const TICKET: &str = "0123456789abcdef0123456789abcdef";

    fn places(place: &std::path::Path) -> Places {
        Places {
            socket: place.join("socket"),
            grants: place.to_owned(),
            results: place.join("results"),
            keys: place.join("keys"),
            passwords: place.join("passwords"),
        }
    }

    #[tokio::test]
    async fn a_change_is_granted_and_its_outcome_is_the_answer() {
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path());
        let caller = Caller { uid: 7, name: "ann".into(), role: Role::Administrator, claimed_from: None };
        let change_of = |fingerprint: &str| AccessOrder {
            ticket: TICKET.into(),
            change: Change::KeyRemove { user: User::Admin, fingerprint: fingerprint.into(), force: false },
        };
        let refused = change(&places, &caller, &change_of("SHA256:x")).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable);
        std::fs::write(&places.socket, "").unwrap();
        std::fs::create_dir(&places.results).unwrap();
        for bad in ["x", "SHA256:a b", "SHA256:\u{1b}"] {
            let refused = change(&places, &caller, &change_of(bad)).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::BadRequest);
        }
        let (granted, result) =
            (file_of(&places.grants, TICKET).unwrap(), file_of(&places.results, TICKET).unwrap());
        let system = std::thread::spawn(move || {
            let begun = Instant::now();
            while !granted.exists() && begun.elapsed() < USED_WITHIN {
                std::thread::yield_now();
            }
            let grant: Grant = read_json(&granted).unwrap();
            std::fs::remove_file(&granted).unwrap();
            write_json(&result, &Done { done: false, told: "it is the last".into() }, 0o644).unwrap();
            grant
        });
        let answer = change(&places, &caller, &change_of("SHA256:x")).await.unwrap_err();
        assert_eq!((answer.code, answer.message.as_str()), (ErrorCode::Refused, "it is the last"));
        let grant = system.join().unwrap();
        assert_eq!((grant.origin.uid, grant.change), (Some(7), change_of("SHA256:x").change));
        let again = change(&places, &caller, &change_of("SHA256:x")).await.unwrap_err();
        assert_eq!(again.code, ErrorCode::BadRequest, "a ticket serves once");
    }

    #[test]
    fn every_user_is_listed_with_keys_and_without_secrets() {
        let place = tempfile::tempdir().unwrap();
        let places = places(place.path());
        assert_eq!(list(&places).unwrap_err().code, ErrorCode::Unavailable);
        std::fs::write(&places.socket, "").unwrap();
        std::fs::create_dir(&places.passwords).unwrap();
        crate::access::passwords::set(&places, User::Viewer, "correct horse").unwrap();
        let rows = list(&places).unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows[0].password_since.is_none() && rows[2].password_since.is_some());
        assert!(!serde_json::to_string(&rows).unwrap().contains("argon2"));
    }
}
