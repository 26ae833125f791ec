//! The configuration from the command line: candidates, commits that come back, history, roles and the audit log.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::Signal;
use portcullis_tests::backend;
use portcullis_tests::process::{self, Output};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::json;

use super::fixture::{self, ANYTHING_LOCAL, Edge};

fn configure(edge: &Edge, words: &[&str]) -> Output {
    edge.gateway.cli(std::iter::once("configure").chain(words.iter().copied())).unwrap()
}

fn file(edge: &Edge) -> String {
    std::fs::read_to_string(edge.gateway.config_file()).unwrap()
}

fn sessions_allowed(edge: &Edge) -> Option<f64> {
    edge.gateway.metrics().unwrap().sum("portcullis_limit_max", &["limit=\"sessions\""])
}

fn actions(edge: &Edge) -> Vec<String> {
    let rows = edge.gateway.cli_json(["configure", "history"]).unwrap();
    rows.as_array().unwrap().iter().map(|row| fixture::text(row, "action")).collect()
}

#[test]
fn a_candidate_is_edited_compared_committed_and_rolled_back() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let before = file(&edge);
    configure(&edge, &["set", "limits.sessions", "1234"]).ok().unwrap();
    assert_eq!(file(&edge), before, "a candidate changes nothing");
    let diff = configure(&edge, &["compare"]).ok().unwrap().stdout;
    assert!(diff.contains("+sessions = 1234"), "{diff}");
    let judged = configure(&edge, &["validate"]).ok().unwrap().stdout;
    assert!(judged.contains("limits") && judged.contains("can be committed"), "{judged}");
    let mut commit = edge.gateway.cli_command().unwrap();
    commit
        .args(["configure", "commit", "-m", "more of them"])
        .env("SSH_CONNECTION", "192.0.2.9 5000 10.0.0.1 22");
    process::run(&mut commit, PATIENCE).unwrap().ok().unwrap();
    assert!(file(&edge).contains("sessions = 1234"));
    assert_eq!(sessions_allowed(&edge), Some(1234.0));
    let history = configure(&edge, &["history"]).ok().unwrap().stdout;
    for word in ["commit", "start", "more of them", "192.0.2.9", "root"] {
        assert!(history.contains(word), "{word} in {history}");
    }
    configure(&edge, &["rollback", "1"]).ok().unwrap();
    configure(&edge, &["commit"]).ok().unwrap();
    assert_eq!(file(&edge), before);
    assert_ne!(sessions_allowed(&edge), Some(1234.0));
    assert!(!configure(&edge, &["commit"]).success(), "there is nothing to commit");
    live.echo(b"all the time").unwrap();
}

#[test]
fn a_bad_configuration_cannot_be_committed_and_nothing_changes() {
    let edge = Edge::start();
    let before = file(&edge);
    let refused = configure(&edge, &["set", "limits.sesions", "5"]);
    assert!(!refused.success() && refused.stderr.contains("did you mean `sessions`"), "{}", refused.stderr);
    configure(&edge, &["set", "listener.edge.kind", "gatway"]).ok().unwrap();
    let judged = configure(&edge, &["validate"]);
    assert!(judged.stdout.contains("cannot be committed"), "{}", judged.stdout);
    let refused = configure(&edge, &["commit"]);
    assert!(!refused.success() && refused.stderr.contains("gatway"), "{}", refused.stderr);
    configure(&edge, &["discard"]).ok().unwrap();
    // What only the reload finds out is refused as well: a certificate without its key.
    std::fs::write(edge.gateway.dir().join("other.crt"), "nothing").unwrap();
    configure(&edge, &["set", "certificate.main.chain", "other.crt"]).ok().unwrap();
    assert!(!configure(&edge, &["commit"]).success());
    assert_eq!(file(&edge), before);
    assert_eq!(actions(&edge), ["start"]);
    edge.client();
}

#[test]
fn a_commit_on_trial_comes_back_by_itself_and_no_session_is_lost() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let mut live = edge.session(server.address());
    let before = file(&edge);
    configure(&edge, &["set", "limits.sessions", "1234"]).ok().unwrap();
    let said = configure(&edge, &["commit", "confirm", "6s"]).ok().unwrap().stdout;
    assert!(said.contains("unless it is confirmed"), "{said}");
    assert_eq!(sessions_allowed(&edge), Some(1234.0));
    configure(&edge, &["set", "limits.connections", "4321"]).ok().unwrap();
    assert!(!configure(&edge, &["commit"]).success(), "one at a time");
    wait::until(PATIENCE, "the configuration before", || file(&edge) == before).unwrap();
    wait::until(PATIENCE, "the limit before", || sessions_allowed(&edge) != Some(1234.0)).unwrap();
    assert_eq!(actions(&edge), ["revert", "commit", "start"]);
    let audit = edge.gateway.cli(["audit"]).unwrap().ok().unwrap().stdout;
    assert!(audit.contains("not confirmed in time"), "{audit}");
    live.echo(b"still here").unwrap();
}

#[test]
fn a_confirmed_commit_stays() {
    let edge = Edge::start();
    configure(&edge, &["set", "limits.sessions", "1234"]).ok().unwrap();
    configure(&edge, &["commit", "confirm", "60s"]).ok().unwrap();
    configure(&edge, &["confirm"]).ok().unwrap();
    assert!(!configure(&edge, &["confirm"]).success(), "nothing waits any more");
    assert!(
        file(&edge).contains("1234") && !edge.gateway.dir().join("state/config/unconfirmed.json").exists()
    );
}

#[test]
fn a_trial_survives_a_restart_and_ends_after_it() {
    let mut edge = Edge::start();
    let before = file(&edge);
    configure(&edge, &["set", "limits.sessions", "1234"]).ok().unwrap();
    configure(&edge, &["commit", "confirm", "10m"]).ok().unwrap();
    edge.gateway.signal(Signal::SIGKILL).unwrap();
    edge.gateway.child().wait(PATIENCE).unwrap();
    // The daemon that comes next goes on waiting, and a start that dies before it is ready is not tried again.
    let config = edge.gateway.config_file();
    let start = || {
        let mut command = Command::new(process::binary("portcullisd").unwrap());
        command.arg("--config").arg(&config).current_dir(config.parent().unwrap());
        process::Child::spawn("again", &mut command, config.parent().unwrap()).unwrap()
    };
    let mut again = start();
    again.wait_for_log("\"ready\"", PATIENCE).unwrap();
    assert!(file(&edge).contains("1234"));
    configure(&edge, &["confirm"]).ok().unwrap();
    configure(&edge, &["rollback", "1"]).ok().unwrap();
    configure(&edge, &["commit", "confirm", "5s"]).ok().unwrap();
    again.signal(Signal::SIGKILL).unwrap();
    again.wait(PATIENCE).unwrap();
    assert_eq!(file(&edge), before);
    let late =
        || std::fs::metadata(&config).unwrap().modified().unwrap().elapsed().unwrap().as_millis() > 5500;
    wait::until(PATIENCE, "the end of the trial", late).unwrap();
    let mut last = start();
    last.wait_for_log("\"ready\"", PATIENCE).unwrap();
    assert!(file(&edge).contains("1234"), "nobody has confirmed the second one");
    assert_eq!(actions(&edge).first().map(String::as_str), Some("revert"));
}

#[test]
fn killing_the_daemon_while_it_commits_leaves_one_of_the_configurations_whole() {
    let mut edge = Edge::start();
    let config = edge.gateway.config_file();
    for round in 0..4 {
        let text = file(&edge);
        let value = (2000 + round).to_string();
        configure(&edge, &["set", "limits.sessions", &value]).ok().unwrap();
        let mut commit = edge.gateway.cli_command().unwrap();
        commit.args(["configure", "commit"]);
        let mut asking = process::Child::spawn("commit", &mut commit, edge.gateway.dir()).unwrap();
        if round % 2 == 1 {
            // Somewhere in the middle: what is staged has just appeared, or it is over already.
            let staged = config.with_extension("toml.new");
            let seen = || staged.exists() || file(&edge) != text;
            wait::until(PATIENCE, "a commit that is under way", seen).unwrap();
        }
        edge.gateway.signal(Signal::SIGKILL).unwrap();
        edge.gateway.child().wait(PATIENCE).unwrap();
        asking.wait(PATIENCE).unwrap();
        let found = file(&edge);
        assert!(found == text || found.contains(&value), "round {round}: {found}");
        let mut command = Command::new(process::binary("portcullisd").unwrap());
        command.arg("--config").arg(&config).current_dir(config.parent().unwrap());
        let mut again = process::Child::spawn("again", &mut command, config.parent().unwrap()).unwrap();
        again.wait_for_log("\"ready\"", PATIENCE).unwrap();
        std::mem::swap(edge.gateway.child(), &mut again);
    }
}

#[test]
fn a_file_that_was_changed_by_hand_is_not_overwritten() {
    let edge = Edge::start();
    configure(&edge, &["set", "limits.sessions", "1234"]).ok().unwrap();
    let mine = file(&edge) + "\n# by hand\n";
    std::fs::write(edge.gateway.config_file(), &mine).unwrap();
    let refused = configure(&edge, &["commit"]);
    assert!(!refused.success() && refused.stderr.contains("by hand"), "{}", refused.stderr);
    assert_eq!(file(&edge), mine);
    edge.gateway.cli(["reload"]).unwrap().ok().unwrap();
    assert!(configure(&edge, &["commit"]).stderr.contains("update"));
    configure(&edge, &["update"]).ok().unwrap();
    configure(&edge, &["commit"]).ok().unwrap();
    assert!(file(&edge).contains("# by hand") && file(&edge).contains("1234"));
}

#[test]
fn a_whole_text_goes_out_and_comes_in_and_is_kept_under_a_name() {
    let edge = Edge::start();
    let text = configure(&edge, &["export"]).ok().unwrap().stdout;
    assert_eq!(text, file(&edge));
    let long =
        format!("{text}\n# {}\n[limits]\nsessions = 77\n", "ü".repeat(100_000)).replacen("[limits]\n", "", 0);
    let mut import = edge.gateway.cli_command().unwrap();
    import.args(["configure", "import"]);
    process::run_with_input(&mut import, long.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    configure(&edge, &["save", "long-one"]).ok().unwrap();
    configure(&edge, &["discard"]).ok().unwrap();
    assert!(configure(&edge, &["compare"]).stdout.contains("nothing differs"));
    configure(&edge, &["load", "long-one"]).ok().unwrap();
    configure(&edge, &["commit"]).ok().unwrap();
    assert_eq!(file(&edge), long);
    assert_eq!(sessions_allowed(&edge), Some(77.0));
}

/// A command as another user, with groups of a role.
fn as_user(edge: &Edge, uid: u32, gid: u32, words: &[&str]) -> Option<Output> {
    let mut command = edge.gateway.cli_command().unwrap();
    command.args(words).uid(uid).gid(gid);
    process::run(&mut command, PATIENCE).ok()
}

#[test]
fn roles_come_from_groups_and_the_daemon_refuses_what_they_do_not_cover() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, to be others");
    }
    // Users and groups of its own: a mount namespace in which /etc/group is another file.
    let mut setup = fixture::setup();
    let at = setup.listener("edge", "gateway", ANYTHING_LOCAL).unwrap();
    let groups = setup.dir().join("group");
    std::fs::write(
        &groups,
        "root:x:0:\nportcullis-viewer:x:61001:\nportcullis-operator:x:61002:\nportcullis-admin:x:61003:\n",
    )
    .unwrap();
    // Others must be able to reach the program and the socket.
    std::fs::set_permissions(setup.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = process::binary("portcullisd").unwrap();
    let script = "mount --bind \"$1\" /etc/group && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&groups).arg(daemon).arg("--config");
    command.arg(setup.dir().join("portcullis.toml")).current_dir(setup.dir());
    let Ok(gateway) = setup.start_command(&mut command) else {
        return skip("needs a mount namespace");
    };
    let edge = Edge { gateway, at };
    let ask = |gid: u32, words: &[&str]| as_user(&edge, 61000, gid, words);
    let Some(reached) = ask(61001, &["status"]) else {
        return skip("the programs are where other users cannot run them");
    };
    reached.ok().unwrap();
    let ask = |gid: u32, words: &[&str]| ask(gid, words).unwrap();
    let refused = ask(61001, &["bans", "add", "192.0.2.7"]);
    assert!(!refused.success() && refused.stderr.contains("operator"), "{}", refused.stderr);
    ask(61002, &["bans", "add", "192.0.2.7"]).ok().unwrap();
    assert!(!ask(61002, &["configure", "set", "limits.sessions", "5"]).success());
    assert!(!ask(61002, &["ticket", "issue", "--target", "10.0.0.1:22"]).success());
    ask(61003, &["configure", "set", "limits.sessions", "500"]).ok().unwrap();
    ask(61003, &["configure", "commit"]).ok().unwrap();
    let stranger = ask(61009, &["status"]);
    assert!(!stranger.success() && stranger.stderr.contains("portcullis-viewer"), "{}", stranger.stderr);
    let records = edge.gateway.cli_json(["audit"]).unwrap();
    let told: Vec<_> = records.as_array().unwrap().iter().collect();
    let with = |outcome: &str, command: &str| {
        told.iter().any(|record| record["outcome"] == outcome && record["what"]["cmd"] == command)
    };
    assert!(
        with("denied", "ban-add") && with("done", "ban-add") && with("denied", "ticket-issue"),
        "{records}"
    );
    assert!(with("done", "config-commit") && with("denied", "config-set"), "{records}");
    assert!(told.iter().all(|record| record["uid"] == json!(61000)), "{records}");
}

#[test]
fn the_audit_log_has_every_change_and_no_secret() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    let mut redeem = edge.gateway.cli_command().unwrap();
    redeem.args(["ticket", "redeem", "-"]);
    process::run_with_input(&mut redeem, ticket.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    edge.gateway.cli(["bans", "add", "192.0.2.7", "--note", "a scan"]).unwrap().ok().unwrap();
    assert!(!edge.gateway.cli(["bans", "remove", "192.0.2.8"]).unwrap().success());
    edge.gateway.cli(["status"]).unwrap().ok().unwrap();
    let text = std::fs::read_to_string(edge.gateway.dir().join("state/audit/audit.jsonl")).unwrap();
    let told: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(told.len(), 4, "{text}");
    assert!(told[2].contains("a scan") && told[3].contains("failed"), "{text}");
    let secret = ticket.rsplit(';').next().unwrap();
    assert!(!secret.is_empty() && !text.contains(secret), "{text}");
    assert!(!edge.gateway.log().contains(secret));
}
