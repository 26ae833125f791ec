use std::io::{BufRead as _, BufReader};

use super::*;
use crate::role::Origin;

const TICKET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEsecHKK3YU6QYDrCPbD3bGwrbMvVbqCFKEhPHyhbhuM ann@desk";

struct Appliance {
    _place: tempfile::TempDir,
    places: Places,
}

impl Appliance {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let places = Places {
            socket: place.path().join("socket"),
            grants: at("grants"),
            results: at("results"),
            keys: at("keys"),
            passwords: at("passwords"),
        };
        Self { _place: place, places }
    }

    fn keys(&self, user: &str) -> String {
        fs::read_to_string(self.places.keys.join(user)).unwrap_or_default()
    }

    /// What a program says and hears when the daemon has granted a change to a user.
    fn ask(&self, granted_to: u32, granted: u64, change: Change, given: Option<&str>) -> Option<Done> {
        let origin = Origin { who: "ann".into(), uid: Some(granted_to), claimed_from: None };
        let grant = Grant { origin, change, granted };
        write_json(&file_of(&self.places.grants, TICKET).unwrap(), &grant, 0o600).unwrap();
        let (client, served) = UnixStream::pair().unwrap();
        let given = given.map(|text| SecretText::new(text.to_owned()));
        let word = serde_json::to_vec(&Word { ticket: TICKET.into(), given }).unwrap();
        (&client).write_all(&[&word[..], b"\n"].concat()).unwrap();
        let served = serve(&self.places, &served, 7);
        served.ok()?;
        let mut line = String::new();
        BufReader::new(&client).read_line(&mut line).unwrap();
        let done: Done = serde_json::from_str(&line).unwrap();
        let told: Done = read_json(&file_of(&self.places.results, TICKET).unwrap()).unwrap();
        assert_eq!(told, done, "the daemon is told the same");
        Some(done)
    }

    fn done(&self, change: Change, given: Option<&str>) -> Result<String, String> {
        let done = self.ask(7, unix_now(), change, given).unwrap();
        if done.done { Ok(done.told) } else { Err(done.told) }
    }
}

fn print() -> String {
    PublicKey::parse(KEY).unwrap().fingerprint().to_owned()
}

fn add(user: User) -> Change {
    Change::KeyAdd { user, fingerprint: print() }
}

fn removal(user: User, force: bool) -> Change {
    Change::KeyRemove { user, fingerprint: print(), force }
}

#[test]
fn a_key_that_is_granted_is_added_once_and_removed_again() {
    let appliance = Appliance::new();
    fs::write(appliance.places.keys.join("operator"), "# ours\nrestrict,pty ssh-foo AAAA bob").unwrap();
    assert!(appliance.done(add(User::Operator), Some(KEY)).unwrap().contains(&print()));
    let text = appliance.keys("operator");
    assert!(text.starts_with("# ours\nrestrict,pty ssh-foo AAAA bob\n# added 20"), "{text}");
    assert!(text.ends_with(&format!("\n{KEY}\n")), "{text}");
    assert!(appliance.done(add(User::Operator), Some(KEY)).unwrap_err().contains("already"));
    appliance.done(removal(User::Operator, false), None).unwrap();
    assert_eq!(appliance.keys("operator"), "# ours\nrestrict,pty ssh-foo AAAA bob\n");
    assert!(appliance.done(removal(User::Operator, false), None).unwrap_err().contains("no such key"));
}

#[test]
fn the_last_way_in_of_an_administrator_goes_by_force_only() {
    let appliance = Appliance::new();
    fs::write(appliance.places.keys.join("admin"), format!("{KEY}\n")).unwrap();
    let refused = appliance.done(removal(User::Admin, false), None).unwrap_err();
    assert!(refused.contains("last way in") && refused.contains("--force"), "{refused}");
    let set = Change::PasswordSet { user: User::Admin };
    assert!(appliance.done(set.clone(), Some("short")).unwrap_err().contains("at least 12"));
    appliance.done(set, Some("correct horse")).unwrap();
    assert!(passwords::verify(&appliance.places, User::Admin, b"correct horse"));
    appliance.done(removal(User::Admin, false), None).unwrap();
    // The empty file stays, so that a credential does not bring its key back.
    assert!(appliance.places.keys.join("admin").is_file() && appliance.keys("admin").is_empty());
    let clear = |force| Change::PasswordClear { user: User::Admin, force };
    assert!(appliance.done(clear(false), None).unwrap_err().contains("last way in"));
    appliance.done(clear(true), None).unwrap();
    assert!(appliance.done(clear(true), None).unwrap_err().contains("no password"));
    let set = Change::PasswordSet { user: User::Viewer };
    appliance.done(set, Some("correct horse")).unwrap();
    appliance.done(Change::PasswordClear { user: User::Viewer, force: false }, None).unwrap();
}

#[test]
fn the_job_looks_at_everything_anew() {
    let appliance = Appliance::new();
    let other = Change::KeyAdd { user: User::Admin, fingerprint: "SHA256:other".into() };
    assert!(appliance.done(other, Some(KEY)).unwrap_err().contains("another one"));
    let options = format!("command=\"x\" {KEY}");
    assert!(appliance.done(add(User::Admin), Some(&options)).unwrap_err().contains("before the key"));
    let two = format!("{KEY}\n{KEY}");
    assert!(appliance.done(add(User::Admin), Some(&two)).unwrap_err().contains("one key at a time"));
    assert!(appliance.done(add(User::Admin), None).unwrap_err().contains("no key"));
    assert_eq!(appliance.keys("admin"), "");
}

#[test]
fn a_grant_serves_once_soon_and_whom_it_was_given_to() {
    let appliance = Appliance::new();
    assert_eq!(appliance.ask(8, unix_now(), add(User::Admin), Some(KEY)), None, "another user");
    assert_eq!(appliance.ask(7, unix_now() - 60, add(User::Admin), Some(KEY)), None, "too late");
    assert_eq!(appliance.ask(7, unix_now() + 60, add(User::Admin), Some(KEY)), None, "from the future");
    assert!(!file_of(&appliance.places.grants, TICKET).unwrap().exists(), "it is used up");
    // Without a grant nothing happens, and who has gone is not waited for.
    let (client, served) = UnixStream::pair().unwrap();
    (&client).write_all(format!("{{\"ticket\":\"{TICKET}\",\"given\":\"x\"}}\n").as_bytes()).unwrap();
    drop(client);
    let begun = Instant::now();
    assert!(serve(&appliance.places, &served, 7).is_err() && begun.elapsed() < PATIENCE);
    assert_eq!(appliance.keys("admin"), "");
}

#[test]
fn what_is_no_word_is_refused_and_not_repeated() {
    let appliance = Appliance::new();
    for word in ["{\"ticket\":\"../x\"}\n", "{\"given\":\"hunter2hunter2\"}\n", &("x".repeat(9000) + "\n")] {
        let (client, served) = UnixStream::pair().unwrap();
        let word = word.to_owned();
        let typist = std::thread::spawn(move || (&client).write_all(word.as_bytes()).ok());
        let error = serve(&appliance.places, &served, 7).unwrap_err().to_string();
        drop(served);
        typist.join().unwrap();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_user_has_so_many_keys_and_no_more() {
    let appliance = Appliance::new();
    let blob = |n: u8| {
        use base64::Engine as _;
        let mut bytes = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        bytes.extend([n; 32]);
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let lines: String =
        (0..KEYS_MAX).map(|n| format!("ssh-ed25519 {}\n", blob(u8::try_from(n).unwrap()))).collect();
    fs::write(appliance.places.keys.join("viewer"), lines).unwrap();
    assert!(appliance.done(add(User::Viewer), Some(KEY)).unwrap_err().contains("64 keys already"));
}
