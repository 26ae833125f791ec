//! `portcullis access`, and the job that the system runs for it.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::args::{Access, AccessJob, AccessKey, AccessPassword};
use super::output::{Failure, Outcome, complain};
use super::table::{Paint, Table};
use super::{Context, terminal};
use crate::access::{KeyError, Places, PublicKey, User, job, passwords};
use crate::ctl::protocol::{AccessChange, AccessChanged, AccessOrder, AccessRow, Command, SecretText};
use crate::exit::Exit;

/// More than the longest key, and than a second line of it.
const INPUT_MAX_BYTES: u64 = 16 * 1024;

pub(super) fn run(context: &Context, command: Access) -> Outcome {
    match command {
        Access::List => {
            let rows: Vec<AccessRow> = context.call(&Command::AccessList {})?;
            context.output.value_or_table(&rows, &table(&rows))?;
            Ok(Exit::Ok)
        }
        Access::Key(AccessKey::Add { user, key }) => {
            let key = key_of(&key)?;
            let fingerprint = key.fingerprint().to_owned();
            let line = Zeroizing::new(key.line());
            change(context, AccessChange::KeyAdd { user, fingerprint }, Some(line))
        }
        Access::Key(AccessKey::Remove { user, fingerprint, last }) => {
            change(context, AccessChange::KeyRemove { user, fingerprint, force: last.force }, None)
        }
        Access::Password(AccessPassword::Set { user }) => {
            let password = password_of(user)?;
            change(context, AccessChange::PasswordSet { user }, Some(password))
        }
        Access::Password(AccessPassword::Clear { user, last }) => {
            change(context, AccessChange::PasswordClear { user, force: last.force }, None)
        }
    }
}

/// What is given goes to the system, at a socket that is an administrator's; the daemon is told what it is about.
fn change(context: &Context, change: AccessChange, given: Option<Zeroizing<String>>) -> Outcome {
    let mut random = [0; 16];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Failure::new(Exit::Internal, "the system has no random numbers"))?;
    let ticket: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let word = job::Word { ticket: ticket.clone(), given: given.map(SecretText::from) };
    // Who cannot get there is told why by the daemon, which looks at the role and writes the audit log.
    let waiting = UnixStream::connect(&Places::default().socket).and_then(|mut system| {
        let mut line = Zeroizing::new(serde_json::to_vec(&word)?);
        line.push(b'\n');
        system.write_all(&line)?;
        Ok(system)
    });
    let done: AccessChanged = context.call(&Command::AccessChange(AccessOrder { ticket, change }))?;
    drop(waiting);
    context.output.value_or_text(&done, &done.told)?;
    Ok(Exit::Ok)
}

fn key_of(typed: &[String]) -> Result<PublicKey, Failure> {
    let line = match typed {
        [] => input()?,
        [dash] if dash == "-" => input()?,
        words => words.join(" "),
    };
    PublicKey::parse(&line).map_err(|error: KeyError| Failure::new(Exit::Data, error.to_string()))
}

/// One line from a terminal, all there is from anywhere else.
fn input() -> Result<String, Failure> {
    let stdin = io::stdin();
    let mut text = String::new();
    let mut input = stdin.lock().take(INPUT_MAX_BYTES);
    let read = if stdin.is_terminal() {
        complain("Public key, as in id_ed25519.pub:");
        input.read_line(&mut text)
    } else {
        input.read_to_string(&mut text)
    };
    read.map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?;
    Ok(text)
}

fn password_of(user: User) -> Result<Zeroizing<String>, Failure> {
    let refused = |error: passwords::PasswordError| Failure::new(Exit::Data, error.to_string());
    let password = terminal::password(&format!("Password of {} (not shown):", user.as_str()))?;
    passwords::check(user, &password).map_err(refused)?;
    if io::stdin().is_terminal() {
        let again = terminal::password("The same again:")?;
        if again != password {
            return Err(Failure::new(Exit::Data, "the two are not the same: nothing was changed"));
        }
    }
    Ok(password)
}

fn table(rows: &[AccessRow]) -> Table {
    let mut table = Table::new().column("USER").column("WAY IN").column("SINCE").column("TYPE").wide("NAME");
    for row in rows {
        let user = row.user.as_str();
        for key in &row.keys {
            let bits = key.bits.map(|bits| format!(" {bits}")).unwrap_or_default();
            let since = key.added.clone().unwrap_or_else(|| "first boot".to_owned());
            let options = if key.options { " (with options)" } else { "" };
            let name = format!("{}{options}", key.comment);
            table.row(
                [user.to_owned(), key.fingerprint.clone(), since, format!("{}{bits}", key.kind), name],
                &[],
            );
        }
        if let Some(since) = &row.password_since {
            let cells = [user, "password", since, "console only", ""];
            table.row(cells.map(str::to_owned), &[]);
        }
        if row.keys.is_empty() && row.password_since.is_none() {
            let paint = if row.user == User::Admin { Paint::Bad } else { Paint::Plain };
            table.row([user, "none", "", "", ""].map(str::to_owned), &[(1, paint)]);
        }
    }
    table
}

/// The job itself, as root: behind the socket for one administrator, or for the machine's own console.
pub(super) fn job(order: AccessJob) -> Outcome {
    let _log = crate::log::init_early().map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    let places = Places::default();
    let said = || terminal::password("");
    let unfit = |why: String| Failure::new(Exit::Data, why);
    match order {
        AccessJob { check: Some(user), .. } => {
            let right = passwords::verify(&places, user, said()?.as_bytes());
            return Ok(if right { Exit::Ok } else { Exit::Negative });
        }
        AccessJob { set: Some(user), .. } => {
            job::set_password(&places, user, &said()?).map_err(unfit)?;
        }
        AccessJob { judge: Some(user), .. } => {
            passwords::check(user, &said()?).map_err(|error| unfit(error.to_string()))?;
        }
        AccessJob { judge_key: true, .. } => {
            PublicKey::parse(&said()?).map_err(|error| unfit(error.to_string()))?;
        }
        AccessJob { .. } => {
            job::run(&places).map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
        }
    }
    Ok(Exit::Ok)
}
