//! What may be typed in the shell. Every command is one of the `portcullis` program: here are only the words that
//! operators of other systems know, and which commands there are at all.
//!
//! What reads or writes files, runs programs or opens connections of the user's own is not in the list, and arguments
//! that name a file are refused wherever they are: this is what stands between an operator and a Unix shell.

use clap::{CommandFactory as _, ValueHint};

use super::words::Word;
use crate::cli::args::Cli;

/// Words of operators, and what they stand for. The longest that fits counts.
pub(super) const WORDS: &[(&[&str], &[&str], &str)] = &[
    (&["show", "status"], &["status"], "how the gateway does"),
    (&["show", "system"], &["system"], "how the machine does"),
    (&["show", "updates"], &["update", "status"], "versions that are installed, and the last update"),
    (
        &["show", "interfaces"],
        &["interfaces"],
        "network cards: driver, queues, addresses, where the filter sits",
    ),
    (
        &["show", "high-availability"],
        &["high-availability"],
        "this appliance as one of two that share addresses",
    ),
    (&["show", "version"], &["version"], "versions: of this program, the appliance, and what runs"),
    (&["show", "sessions"], &["sessions", "list"], "sessions, oldest first"),
    (&["show", "session"], &["sessions", "show"], "one session"),
    (&["show", "sta"], &["sta", "list"], "ticket authorities and their state"),
    (&["show", "configuration"], &["configure", "export"], "the configuration in force, as TOML"),
    (&["show", "config"], &["configure", "export"], "the same as `show configuration`"),
    (&["show", "effective"], &["config", "show"], "the configuration in force with its defaults"),
    (&["show", "candidate"], &["configure", "show"], "your candidate, as TOML"),
    (&["show", "history"], &["configure", "history"], "what has been in force, and who put it there"),
    (&["show", "audit"], &["audit"], "who changed what, when and from where"),
    (&["show", "certificates"], &["certificate", "list"], "certificates, and when they end"),
    (&["show", "certificate"], &["certificate", "show"], "one certificate with its chain"),
    (&["show", "secrets"], &["secret", "list"], "names of secrets that the configuration may use"),
    (&["show", "access"], &["access", "list"], "who may log in: keys and passwords"),
    (&["show", "bans"], &["bans", "list"], "who may not come in"),
    (&["show", "forward"], &["forward", "status"], "servers of forward listeners"),
    (&["show", "flows"], &["forward", "flows"], "flows that the kernel forwards"),
    (&["show", "xdp"], &["xdp", "status"], "the packet filter"),
    (&["show", "drops"], &["xdp", "drops"], "packets that were dropped, and why"),
    (&["show", "ports"], &["ports", "show"], "what may come in by which port"),
    (&["show", "metrics"], &["metrics"], "metrics in Prometheus's text format"),
    (&["show", "log"], &["logs", "show"], "the newest lines of the log; --follow goes on"),
    (&["show", "log-level"], &["logs", "level"], "what is logged"),
    (&["show", "health"], &["health"], "how the gateway does, check by check"),
    (&["show", "users"], &["users"], "who has sessions"),
    (&["show", "captures"], &["capture", "list"], "captures that are kept"),
    (&["kill", "session"], &["sessions", "kill"], "end one session"),
    (&["kill", "sessions"], &["sessions", "kill"], "end sessions: of a user, or all"),
    (&["kill", "user"], &["sessions", "kill", "--user"], "end the sessions of a user"),
    (&["drain"], &["forward", "drain"], "let a server take no new flows"),
    (&["undrain"], &["forward", "undrain"], "let a server take new flows again"),
    (&["drain", "gateway"], &["drain"], "let this gateway take no new sessions; those that live go on"),
    (&["undrain", "gateway"], &["undrain"], "let this gateway take new sessions again"),
    (&["ban"], &["bans", "add"], "let an address or prefix not come in"),
    (&["unban"], &["bans", "remove"], "lift a ban"),
    (&["monitor", "sessions"], &["sessions", "watch"], "sessions, kept up to date; Ctrl-C ends it"),
    (&["monitor", "log"], &["logs", "show", "--follow"], "lines of the log as they come; Ctrl-C ends it"),
    (&["monitor", "packets"], &["xdp", "top"], "packets by reason, kept up to date; Ctrl-C ends it"),
    (&["test", "sta"], &["sta", "test"], "ask a ticket authority now"),
    (&["test", "tls"], &["tls-test"], "what a server's TLS looks like, and whether it is believed"),
    (&["test", "port"], &["ports", "test"], "which rule decides about a packet"),
    (&["confirm"], &["configure", "confirm"], "keep what was committed on trial"),
];

/// Commands of the program that may be typed as they are.
const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["version"],
    &["system"],
    &["interfaces"],
    &["high-availability"],
    &["sessions"],
    &["sta"],
    &["ticket"],
    &["configure"],
    &["config", "show"],
    &["config", "push"],
    &["bans"],
    &["certificate"],
    &["secret"],
    &["access"],
    &["xdp", "status"],
    &["xdp", "drops"],
    &["xdp", "flows"],
    &["xdp", "top"],
    &["forward"],
    &["drain"],
    &["undrain"],
    &["ports"],
    &["logs"],
    &["metrics"],
    &["resolve"],
    &["ping"],
    &["trace"],
    &["tls-test"],
    &["capture"],
    &["health"],
    &["users"],
    &["support"],
    &["update"],
    &["factory-reset"],
    &["reboot"],
    &["shutdown"],
    &["audit"],
    &["reload"],
    &["--version"],
];

/// Commands that keep themselves up to date: their output is not collected.
const LIVE: &[&[&str]] = &[
    &["sessions", "watch"],
    &["xdp", "top"],
    &["ping"],
    &["trace"],
    &["capture"],
    &["support", "shell"],
    &["factory-reset"],
];

/// The words of the program that a line stands for.
pub(super) fn resolve(words: &[Word], configuring: bool, place: &str) -> Result<Vec<String>, String> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let resolved = if configuring { configure(words, place) } else { operate(words, &texts) };
    if !COMMANDS.iter().any(|command| begins(&resolved, command)) {
        let typed = texts.join(" ");
        let mode = if configuring { "in configure mode; `run` goes before other commands" } else { "here" };
        return Err(format!("unknown command `{}` {mode}; `?` lists what there is", shown(&typed)));
    }
    refuse_files(&resolved)?;
    Ok(resolved)
}

fn operate(words: &[Word], texts: &[&str]) -> Vec<String> {
    let fitting = WORDS.iter().filter(|(typed, _, _)| texts.starts_with(typed));
    match fitting.max_by_key(|(typed, _, _)| typed.len()) {
        Some((typed, meant, _)) => {
            let rest = words.iter().skip(typed.len());
            let meant: Vec<String> = meant.iter().map(|word| (*word).to_owned()).collect();
            let keeps_quotes = meant.first().is_some_and(|word| word == "configure");
            meant.into_iter().chain(rest.map(|word| as_meant(word, keeps_quotes))).collect()
        }
        None => {
            let keeps_quotes = texts.first() == Some(&"configure");
            words.iter().map(|word| as_meant(word, keeps_quotes)).collect()
        }
    }
}

/// In configure mode all words are those of `configure`, and paths begin where `edit` has gone.
fn configure(words: &[Word], place: &str) -> Vec<String> {
    let mut resolved = vec!["configure".to_owned()];
    let command = words.first().map(|word| word.text.as_str()).unwrap_or_default();
    let has_path = matches!(command, "set" | "delete" | "show");
    for (index, word) in words.iter().enumerate() {
        let keeps_quotes = matches!(command, "set" | "delete" | "show");
        let text = as_meant(word, keeps_quotes);
        let is_path = has_path && index == 1 && !text.starts_with("--");
        resolved.push(if is_path { joined(place, &text) } else { text });
    }
    if command == "show" && !place.is_empty() && words.len() == 1 {
        resolved.push(place.to_owned());
    }
    resolved
}

/// A path below another.
pub(super) fn joined(place: &str, path: &str) -> String {
    match (place.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => place.to_owned(),
        _ => format!("{place}.{path}"),
    }
}

fn as_meant(word: &Word, keeps_quotes: bool) -> String {
    if keeps_quotes && !word.typed.starts_with("--") { word.typed.clone() } else { word.text.clone() }
}

fn begins(words: &[String], with: &[&str]) -> bool {
    words.len() >= with.len() && words.iter().zip(with).all(|(word, with)| word == with)
}

/// Whether a command shows itself, instead of leaving a text behind.
pub(super) fn is_live(words: &[String]) -> bool {
    let may_follow = [&["xdp", "drops"], &["logs", "show"]].iter().any(|command| begins(words, *command));
    let follows = may_follow && words.iter().any(|word| word == "--follow" || word == "-f");
    follows || LIVE.iter().any(|live| begins(words, live))
}

/// Whether a first word may be the beginning of a command of the program.
pub(super) fn is_allowed(path: &[&str]) -> bool {
    COMMANDS.iter().any(|command| path.iter().zip(*command).all(|(word, allowed)| word == allowed))
}

/// Nothing in the shell names a file of the machine.
fn refuse_files(words: &[String]) -> Result<(), String> {
    let mut command = &Cli::command();
    let mut flags: Vec<String> = files_of(command);
    for word in words {
        let Some(below) = command.find_subcommand(word) else { continue };
        command = below;
        flags.extend(files_of(command));
    }
    let flag =
        |word: &String| word.split('=').next().is_some_and(|name| flags.iter().any(|flag| flag == name));
    match words.iter().find(|word| flag(word)) {
        Some(word) => Err(format!("`{}` names a file, which the shell does not do", shown(word))),
        None => Ok(()),
    }
}

fn files_of(command: &clap::Command) -> Vec<String> {
    let file = |argument: &&clap::Arg| argument.get_value_hint() != ValueHint::Unknown;
    let flag = |argument: &clap::Arg| argument.get_long().map(|long| format!("--{long}"));
    command.get_arguments().filter(file).filter_map(flag).collect()
}

fn shown(typed: &str) -> String {
    typed.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::split;
    use super::*;

    fn meant(typed: &str) -> Result<String, String> {
        resolve(&split(typed).unwrap(), false, "").map(|words| words.join(" "))
    }

    #[test]
    fn operators_words_become_commands_of_the_program() {
        for (typed, expected) in [
            ("show sessions --json", "sessions list --json"),
            ("show session 0000000000000001", "sessions show 0000000000000001"),
            ("kill session 0000000000000001", "sessions kill 0000000000000001"),
            ("kill sessions --all", "sessions kill --all"),
            ("kill user ann", "sessions kill --user ann"),
            ("drain sf1", "forward drain sf1"),
            ("drain gateway", "drain"),
            ("ban 192.0.2.7 --note 'a b'", "bans add 192.0.2.7 --note a b"),
            ("sessions list", "sessions list"),
            ("configure set listener.\"a.b\".kind socks", "configure set listener.\"a.b\".kind socks"),
            ("monitor sessions", "sessions watch"),
        ] {
            assert_eq!(meant(typed).unwrap(), expected);
        }
    }

    #[test]
    fn every_word_stands_for_a_command_that_exists_and_is_allowed() {
        for (typed, meant, about) in WORDS {
            let words: Vec<String> = meant.iter().map(|word| (*word).to_owned()).collect();
            assert!(COMMANDS.iter().any(|command| begins(&words, command)), "{typed:?}");
            let mut command = &Cli::command();
            for word in meant.iter().filter(|word| !word.starts_with("--")) {
                command = command.find_subcommand(word).unwrap_or_else(|| panic!("{typed:?}: {word}"));
            }
            assert!(about.len() > 5);
        }
    }

    #[test]
    fn nothing_that_runs_programs_or_touches_files_can_be_typed() {
        for typed in [
            "connect --gateway gw --ticket-command id",
            "ica --gateway gw --ticket x --out /tmp/x",
            "man --out /tmp",
            "completions bash",
            "check --file /etc/shadow",
            "config check --file /etc/shadow",
            "config show --file /etc/shadow",
            "config show --file=/etc/shadow",
            "config hash-password",
            "show effective --file /etc/shadow",
            "status --config /etc/shadow",
            "status --socket=/tmp/x",
            "show sessions --config /etc/shadow",
            "xdp detach --pins /tmp",
            "shell -c id",
            "sh",
            "!id",
            "",
        ] {
            assert!(meant(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn every_argument_with_a_path_is_known_as_one() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let suspicious = ["file", "path", "out", "socket", "config", "dir", "pins", "ca"];
                let known = argument.get_value_hint() != ValueHint::Unknown;
                let takes = argument.get_action().takes_values() && argument.get_long().is_some();
                assert!(known || !takes || !suspicious.contains(&name), "{}: {name}", command.get_name());
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn in_configure_mode_paths_begin_where_edit_has_gone() {
        let meant = |typed: &str| resolve(&split(typed).unwrap(), true, "listener.edge").unwrap().join(" ");
        assert_eq!(meant("set kind socks"), "configure set listener.edge.kind socks");
        assert_eq!(meant("set listen [\"a\", \"b\"]"), "configure set listener.edge.listen [\"a\", \"b\"]");
        assert_eq!(meant("show"), "configure show listener.edge");
        assert_eq!(meant("commit confirm 5 -m 'a reason'"), "configure commit confirm 5 -m a reason");
        assert!(
            resolve(&split("sessions list").unwrap(), true, "").is_ok_and(|words| words[0] == "configure")
        );
    }

    #[test]
    fn every_command_that_the_document_promises_exists() {
        let document = include_str!("../../../docs/SHELL.md");
        let table = document.split("## For those who know NetScaler").nth(1).unwrap();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(rows.len() > 15);
        for row in rows {
            let ours = row.rsplit(" | ").next().unwrap();
            for typed in ours.split('`').skip(1).step_by(2) {
                let own = [
                    "terminal",
                    "portcullis",
                    "set",
                    "portcullis-viewer",
                    "portcullis-operator",
                    "portcullis-admin",
                ];
                if !typed.split(' ').next().is_some_and(|first| own.contains(&first)) {
                    assert!(meant(typed).is_ok(), "{typed}");
                }
            }
        }
    }
}
