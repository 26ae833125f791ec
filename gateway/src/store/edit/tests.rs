use super::*;

const TEXT: &str = r#"# The gateway of the hospital.
[server]
workers = 2 # as many as cores

[limits]
sessions = 100  # ask before you raise this

[[listener]]
name = "edge"
kind = "gateway"
listen = ["0.0.0.0:443"]

# The one for partners.
[[listener]]
name = "partners"
kind = "hdx-only"
allow = [{ to = ["10.0.0.0/8"], ports = [1494] }]
"#;

fn changed(path: &str, value: &str) -> String {
    set(TEXT, path, value).unwrap()
}

#[test]
fn a_value_changes_and_every_comment_stays() {
    let text = changed("limits.sessions", "2000");
    assert_eq!(text, TEXT.replace("sessions = 100 ", "sessions = 2000 "));
    assert!(changed("listener.partners.kind", "gateway").contains("# The one for partners."));
}

#[test]
fn what_must_be_a_text_needs_no_quotes_and_a_list_no_brackets() {
    for (path, typed, written) in [
        ("log.level", "debug", "level = \"debug\""),
        ("log.level", "\"debug\"", "level = \"debug\""),
        ("server.drain_timeout", "30s", "drain_timeout = \"30s\""),
        ("listener.edge.listen", "0.0.0.0:443,[::]:443", "listen = [\"0.0.0.0:443\", \"[::]:443\"]"),
        ("listener.edge.listen", "[\"0.0.0.0:8443\"]", "listen = [\"0.0.0.0:8443\"]"),
        ("listener.edge.permit_loopback", "true", "permit_loopback = true"),
        ("listener.partners.allow.1.ports", "1494,2598,3000-3010", "ports = [1494, 2598, \"3000-3010\"]"),
        ("limits.sessions", "16_000", "sessions = 16_000"),
    ] {
        let text = changed(path, typed);
        assert!(text.contains(written), "{path} {typed}: {text}");
    }
}

#[test]
fn what_is_missing_on_the_way_is_made() {
    let text = changed("metrics.listen", "127.0.0.1:9090");
    assert!(text.contains("[metrics]\nlisten = \"127.0.0.1:9090\""), "{text}");
    let text = changed("listener.new.kind", "socks");
    assert!(text.contains("[[listener]]\nname = \"new\"\nkind = \"socks\""), "{text}");
    let text = changed("listener.edge.allow.+.to", "192.0.2.0/24");
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["listener"][0]["allow"][0]["to"][0].as_str(), Some("192.0.2.0/24"));
    let text = changed("xdp.interface.eth0.role", "edge");
    assert!(text.contains("[[xdp.interface]]\nname = \"eth0\"\nrole = \"edge\""), "{text}");
}

#[test]
fn a_table_can_be_set_whole() {
    let text = changed("listener.edge", "{ kind = \"socks\", listen = [\"127.0.0.1:1080\"] }");
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["listener"][0]["name"].as_str(), Some("edge"));
    assert_eq!(table["listener"][0]["kind"].as_str(), Some("socks"));
    let text = changed("bans.bad_tickets", "{ count = 5, within = \"1m\" }");
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["bans"]["bad_tickets"]["count"].as_integer(), Some(5));
}

#[test]
fn deleting_takes_away_what_was_named_and_nothing_else() {
    let text = delete(TEXT, "listener.edge").unwrap();
    assert!(!text.contains("edge") && text.contains("partners") && text.contains("hospital"), "{text}");
    let text = delete(TEXT, "limits.sessions").unwrap();
    assert!(!text.contains("sessions ="), "{text}");
    let text = delete(TEXT, "limits").unwrap();
    assert!(!text.contains("[limits]"), "{text}");
    let text = delete(TEXT, "listener.partners.allow.1").unwrap();
    assert!(!text.contains("allow"), "an empty list goes too: {text}");
}

#[test]
fn what_is_not_there_cannot_be_deleted_and_nothing_is_made_on_the_way() {
    for path in
        ["metrics.listen", "listener.other", "listener.edge.target", "listener.partners.allow.2", "dns"]
    {
        assert_eq!(delete(TEXT, path), Err(EditError::Absent(path.to_owned())));
    }
    assert_eq!(
        set(TEXT, "xdp.rule.3.action", "open"),
        Err(EditError::Absent("xdp.rule.3.action".to_owned()))
    );
}

#[test]
fn a_value_of_another_kind_is_refused_with_what_is_right() {
    for (path, typed, said) in [
        ("limits.sessions", "many", "a whole number"),
        ("listener.edge.permit_loopback", "yes", "true or false"),
        ("listener.edge", "gateway", "set one of its keys"),
        ("log.level", "a\nb", "a text"),
        ("listener.edge.listen", "a,,b", "a list"),
    ] {
        let error = set(TEXT, path, typed).unwrap_err().to_string();
        assert!(error.contains(said), "{path} {typed}: {error}");
    }
}

#[test]
fn values_can_be_looked_at() {
    assert_eq!(get(TEXT, "limits.sessions").unwrap(), "100");
    assert!(get(TEXT, "listener.edge").unwrap().contains("gateway"));
    assert_eq!(get(TEXT, "listener.partners.allow.1.ports").unwrap(), "[1494]");
    assert!(get(TEXT, "listener.other.kind").is_err());
    assert_eq!(names(TEXT, "listener"), ["edge", "partners"]);
    let nested = "[network]\n[[network.interface]]\nname = \"eth0\"\n[[listener]]\nname = \"farm\"\n\
        server = [{ name = \"a\" }, { name = \"b\" }]\n";
    assert_eq!(names(nested, "network.interface"), ["eth0"]);
    assert_eq!(names(nested, "listener.farm.server"), ["a", "b"]);
    assert_eq!(names(nested, "listener.other.server"), [""; 0]);
}
