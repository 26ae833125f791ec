//! Commands that work on files: ICA files, configurations, password hashes.

use std::os::unix::fs::PermissionsExt as _;

use crate::program::{TICKET, command, finish, run, text};

fn ica(more: &[&str]) -> crate::program::Output {
    let first = ["ica", "--ticket", TICKET, "--gateway", "gw.example.com"];
    run(first.iter().chain(more))
}

#[test]
fn an_ica_file_holds_ticket_and_gateway_and_no_server() {
    let output = ica(&["--application", "Notepad", "--set", "ScreenPercent=80"]);
    assert_eq!(output.code, 0, "{output:?}");
    for line in [
        "[Notepad]",
        &format!("Address={TICKET}"),
        "SSLProxyHost=gw.example.com:443",
        "CGPSecurityTicket=On",
        "ScreenPercent=80",
    ] {
        assert!(output.stdout.lines().any(|found| found == line), "{line} in {}", output.stdout);
    }
    assert!(ica(&["--no-cgp"]).stdout.contains("CGPSecurityTicket=Off"));
}

#[test]
fn an_ica_file_with_an_inside_address_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("launch.ica");
    for set in ["Address=10.0.0.9:1494", "HttpBrowserAddress=10.0.0.9", "ProxyHost=192.168.0.1:8080"] {
        let output = ica(&["--set", set, "--out", text(&out)]);
        assert_eq!(output.code, 64, "{set}: {output:?}");
        assert!(!out.exists());
    }
}

#[test]
fn an_ica_file_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("launch.ica");
    assert_eq!(ica(&["--out", text(&out)]).code, 0);
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let output = ica(&["--out", text(&directory.path().join("none/launch.ica"))]);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("none/launch.ica"), "{output:?}");
}

#[test]
fn a_configuration_that_is_wrong_is_told_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("portcullis.toml");
    std::fs::write(&config, "[sever]\nworkers = 2\n").unwrap();
    for arguments in [&["check", "--file"][..], &["config", "check", "--file"], &["check", "--config"]] {
        let output = run(arguments.iter().copied().chain([text(&config)]));
        assert_eq!(output.code, 78, "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains("portcullis.toml:1:") && output.stderr.contains("server"),
            "{output:?}"
        );
    }
    let json = run(["check", "--json", "--file", text(&config)]).json();
    assert_eq!((&json["ok"], json["problems"].is_null()), (&false.into(), false), "{json}");
}

#[test]
fn a_configuration_that_works_is_good_and_can_be_shown() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("portcullis.toml");
    let listener = "[[listener]]\nname = \"inside\"\nkind = \"socks\"\nlisten = [\"127.0.0.1:1080\"]\n\
                    [[listener.allow]]\nto = [\"10.0.0.0/8\"]\nports = [22]\n";
    std::fs::write(&config, listener).unwrap();
    let output = run(["config", "check", "--json", "--file", text(&config)]);
    let json = output.json();
    let worst = json["findings"].as_array().unwrap().iter().any(|finding| finding["severity"] == "error");
    assert!(!worst && output.code <= 1, "{json}");
    let shown = run(["config", "show", "--json", "--file", text(&config)]).json().to_string();
    assert!(shown.contains("\"inside\""), "{shown}");
}

#[test]
fn a_configuration_that_is_not_there_is_a_fault_of_the_configuration() {
    let output = run(["check", "--file", "/nonexistent/portcullis.toml"]);
    assert_eq!(output.code, 78, "{output:?}");
    assert!(output.stderr.contains("/nonexistent/portcullis.toml"), "{output:?}");
}

#[test]
fn a_hashed_password_is_one_that_the_users_file_takes() {
    let output = finish(command(["config", "hash-password", "--user", "ann"]), b"correct horse\n");
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.starts_with("ann:$argon2id$") && !output.stdout.contains("horse"), "{output:?}");
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, &output.stdout).unwrap();
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    let users = portcullis::authn::local::UserDb::load(&users).unwrap();
    assert!(users.verify("ann", b"correct horse") && !users.verify("ann", b"correct horse\n"));
}

#[test]
fn a_name_or_password_that_cannot_be_is_refused() {
    assert_eq!(finish(command(["config", "hash-password", "--user", "a:b"]), b"x\n").code, 64);
    assert_eq!(finish(command(["config", "hash-password"]), b"\n").code, 65);
}
