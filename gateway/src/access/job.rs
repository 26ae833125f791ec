//! `portcullis access-job`: what the system runs, as root and for one change, behind the socket that only administrators
//! reach (`appliance-access@.service`). It does what the daemon has granted to whoever is at the other end, checks all of it
//! anew, and tells the daemon and the administrator what came of it.
//!
//! The administrator's program says first which ticket it has drawn, and the key or the password; then it has the daemon
//! grant the change under that ticket. So the daemon's answer, and its record in the audit log, is the outcome itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    Change, Done, Grant, KEYS_MAX, Places, PublicKey, USED_WITHIN, User, file_of, listed, passwords, places,
    unix_now, with, without,
};
use crate::log::rfc3339;
use crate::role::{Caller, Role};
use crate::secret_text::SecretText;
use crate::update::{read_json, write_json};

/// Longest word of an administrator's program.
const WORD_MAX_BYTES: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for the grant, and whether the administrator is still there.
const LOOK: Duration = Duration::from_millis(100);
const KEYS_MODE: u32 = 0o644;
const RESULT_MODE: u32 = 0o644;
const LOCK: &str = "lock";

/// What the administrator's program says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    pub ticket: String,
    /// The key or the password, where one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<SecretText>,
}

/// Serves the connection that is standard input.
///
/// # Errors
/// When nobody could be served; a refusal is told to the administrator and is none.
pub fn run(places: &Places) -> io::Result<()> {
    let connection = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let peer = getsockopt(&connection, PeerCredentials)?;
    let caller = Caller::of(peer.uid(), peer.gid()).ok().filter(|caller| caller.role == Role::Administrator);
    let Some(caller) = caller else { return Err(io::Error::other("whoever asks is no administrator")) };
    serve(places, &connection, caller.uid)
}

fn serve(places: &Places, mut connection: &UnixStream, uid: u32) -> io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    let word = hear(connection)?;
    let Some(result) = file_of(&places.results, &word.ticket) else {
        return Err(io::Error::other("what was said names no ticket"));
    };
    forget_results(places);
    let grant = wait_for_grant(places, connection, &word.ticket, uid)?;
    let who = &grant.origin.who;
    let done = match change(places, &grant.change, word.given.as_ref().map(SecretText::expose)) {
        Ok(told) => {
            tracing::warn!(who, from = grant.origin.claimed_from, told, "who may log in was changed");
            Done { done: true, told }
        }
        Err(told) => {
            tracing::warn!(who, from = grant.origin.claimed_from, told, "who may log in was not changed");
            Done { done: false, told }
        }
    };
    write_json(&result, &done, RESULT_MODE)?;
    // Who has gone meanwhile finds it in the audit log.
    connection.write_all(&[&serde_json::to_vec(&done)?[..], b"\n"].concat()).ok();
    Ok(())
}

/// One line, which comes at once.
fn hear(mut connection: &UnixStream) -> io::Result<Word> {
    let ends = Instant::now() + PATIENCE;
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(WORD_MAX_BYTES));
    let mut bytes = zeroize::Zeroizing::new([0; 1024]);
    while line.last() != Some(&b'\n') {
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() + bytes.len() > WORD_MAX_BYTES {
            return Err(io::Error::other("what was said is too long, or came too slowly"));
        }
        connection.set_read_timeout(Some(left))?;
        match connection.read(&mut bytes[..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(bytes.get(..count).unwrap_or_default()),
        }
    }
    // What serde complains of could repeat a secret.
    serde_json::from_slice(&line).map_err(|_| io::Error::other("what was said is no word of portcullis"))
}

/// The daemon grants as soon as it has looked at the role; it does not, or the administrator goes.
fn wait_for_grant(places: &Places, mut connection: &UnixStream, ticket: &str, uid: u32) -> io::Result<Grant> {
    let ends = Instant::now() + USED_WITHIN;
    let refused = || io::Error::other("the daemon has not granted that");
    let file = file_of(&places.grants, ticket).ok_or_else(refused)?;
    connection.set_read_timeout(Some(LOOK))?;
    while Instant::now() < ends {
        match read_json::<Grant>(&file) {
            Ok(grant) => {
                fs::remove_file(&file)?;
                let age = unix_now().checked_sub(grant.granted);
                let fresh = age.is_some_and(|age| age <= USED_WITHIN.as_secs());
                return if fresh && grant.origin.uid == Some(uid) { Ok(grant) } else { Err(refused()) };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(refused()),
        }
        match connection.read(&mut [0; 16]) {
            Ok(_) => return Err(refused()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Err(refused())
}

/// Results that the daemon has had its time to read.
fn forget_results(places: &Places) {
    let entries = fs::read_dir(&places.results).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name() != LOCK) {
        let written = entry.metadata().and_then(|meta| meta.modified()).ok();
        let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
        if age.is_some_and(|age| age > 2 * USED_WITHIN) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Does one change, alone: what has changed, or why nothing has.
fn change(places: &Places, change: &Change, given: Option<&str>) -> Result<String, String> {
    let _alone = lock(places).map_err(|error| format!("another change does not end: {error}"))?;
    match change {
        Change::KeyAdd { user, fingerprint } => {
            add(places, *user, fingerprint, given.ok_or("there is no key")?)
        }
        Change::KeyRemove { user, fingerprint, force } => remove(places, *user, fingerprint, *force),
        Change::PasswordSet { user } => {
            let password = given.ok_or("there is no password")?;
            set_password(places, *user, password)
        }
        Change::PasswordClear { user, force } => clear_password(places, *user, *force),
    }
}

fn lock(places: &Places) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(places.results.join(LOCK))?;
    let ends = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(error) if Instant::now() > ends => return Err(error.into()),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn add(places: &Places, user: User, fingerprint: &str, line: &str) -> Result<String, String> {
    let key = PublicKey::parse(line).map_err(|error| error.to_string())?;
    if key.fingerprint() != fingerprint {
        return Err("the key is another one than the daemon was told".to_owned());
    }
    let text = places.keys_text(user).map_err(|error| error.to_string())?;
    let present = listed(&text);
    if present.iter().any(|old| old.fingerprint == fingerprint) {
        return Err(format!("{} has that key already", user.as_str()));
    }
    if present.len() >= KEYS_MAX {
        return Err(format!("{} has {KEYS_MAX} keys already: remove one first", user.as_str()));
    }
    let text = with(&text, &key, &rfc3339(SystemTime::now()));
    if u64::try_from(text.len()).is_ok_and(|length| length > places::FILE_MAX_BYTES) {
        return Err("the file of keys would become too long: remove one first".to_owned());
    }
    places::put(&places.keys_of(user), &text, KEYS_MODE)
        .map_err(|error| format!("it cannot be written: {error}"))?;
    Ok(format!("{fingerprint} may log in as {} by SSH", user.as_str()))
}

fn remove(places: &Places, user: User, fingerprint: &str, force: bool) -> Result<String, String> {
    let text = places.keys_text(user).map_err(|error| error.to_string())?;
    let present = listed(&text);
    let others = present.iter().filter(|key| key.fingerprint != fingerprint).count();
    if others == present.len() {
        return Err(format!("{} has no such key: `access list` shows which there are", user.as_str()));
    }
    if user == User::Admin && others == 0 && !force && places.password_since(user).is_none() {
        return Err(
            "it is the last way in of an administrator: add another key or set a password first, or say \
                    --force"
                .to_owned(),
        );
    }
    // Empty, it stays: what a credential has told at the first boot must not come back with the next one.
    places::put(&places.keys_of(user), &without(&text, fingerprint), KEYS_MODE)
        .map_err(|error| format!("it cannot be written: {error}"))?;
    Ok(format!("{fingerprint} may not log in as {} any more; sessions that are open stay", user.as_str()))
}

/// Keeps a password.
///
/// # Errors
/// Why not, in words.
pub fn set_password(places: &Places, user: User, password: &str) -> Result<String, String> {
    passwords::set(places, user, password).map_err(|error| error.to_string())?;
    Ok(format!("{} may log in at the console by password", user.as_str()))
}

fn clear_password(places: &Places, user: User, force: bool) -> Result<String, String> {
    let keys = places.listed(user).map_err(|error| error.to_string())?;
    if user == User::Admin && keys.is_empty() && !force {
        return Err("it is the last way in of an administrator: add a key first, or say --force".to_owned());
    }
    match passwords::clear(places, user) {
        Ok(true) => Ok(format!("{} has no password any more", user.as_str())),
        Ok(false) => Err(format!("{} has no password", user.as_str())),
        Err(error) => Err(format!("it cannot be removed: {error}")),
    }
}

#[cfg(test)]
mod tests;
