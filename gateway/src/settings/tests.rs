use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::parse_settings;

#[test]
fn a_request_is_an_empty_file_and_elsewhere_nothing() {
    let directory = tempfile::tempdir().unwrap();
    ask_in(directory.path()).unwrap();
    assert_eq!(std::fs::read(directory.path().join(REQUEST)).unwrap(), b"");
    ask_in(&directory.path().join("absent")).unwrap();
}

#[test]
fn a_file_that_is_newer_than_what_was_applied_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, status) = (directory.path().join("x.toml"), directory.path().join("status.json"));
    assert!(!is_behind(&file, &status));
    std::fs::write(&file, "").unwrap();
    assert!(is_behind(&file, &status));
    std::fs::write(&status, "").unwrap();
    let at = |path: &Path, seconds| {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    at(&file, 100);
    at(&status, 200);
    assert!(!is_behind(&file, &status));
    at(&file, 300);
    assert!(is_behind(&file, &status));
}

#[test]
fn what_was_not_applied_is_told_whatever_ended_it() {
    let directory = tempfile::tempdir().unwrap();
    let (requests, status) = (directory.path().join("requests"), directory.path().join("status.json"));
    let standing = || standing_of(&requests, &status);
    let told = |part: &str| matches!(standing(), Some(Standing::NotApplied(why)) if why.contains(part));
    assert_eq!(standing(), None, "no appliance");
    std::fs::create_dir(&requests).unwrap();
    assert!(told("nobody says"));
    let say = |text: &str| std::fs::write(&status, text).unwrap();
    say(r#"{"at":"2026-01-01T00:00:00Z","done":true,"told":[]}"#);
    assert_eq!(standing(), Some(Standing::Applied));
    say(r#"{"at":"2026-01-01T00:00:00Z","done":false,"told":["no link"]}"#);
    assert!(told("at 2026-01-01T00:00:00Z: no link"));
    say(r#"{"at":"2026-01-01T00:00:00Z","done":false,"told":[],"under_way":true}"#);
    assert!(matches!(standing(), Some(Standing::UnderWay { .. })));
    say(r#"{"at":"2026-01-01T00:00:00Z","done":true,"told":[]}"#);
    ask_in(&requests).unwrap();
    assert_eq!(standing(), Some(Standing::Applied), "it was asked for just now");
    let request = std::fs::File::open(requests.join(REQUEST)).unwrap();
    request.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    assert!(told("nobody has taken the request for 6"));
}

proptest! {
    /// Whatever stands in a value: it is refused, or it has nothing that begins a line, an option or a pattern.
    #[test]
    fn no_value_carries_anything_but_itself(wild in "\\PC*|[ -~\\n\\r\\t]*") {
        let quoted = toml::Value::String(wild).to_string();
        for line in ["host_name", "time_zone"] {
            let text = format!("[network]\n{line} = {quoted}\n[[network.interface]]\nname = \"eth0\"\ndhcp = \"yes\"\n");
            check(&text);
        }
        for line in ["dns", "search", "ntp"] {
            let text = format!("[network]\n{line} = [{quoted}]\n[[network.interface]]\nname = \"eth0\"\ndhcp = \"yes\"\n");
            check(&text);
        }
        check(&format!("[network]\n[[network.interface]]\nname = {quoted}\ndhcp = \"yes\"\n"));
        check(&format!("[network]\n[[network.interface]]\nname = \"v\"\nparent = {quoted}\nvlan = 1\ndhcp = \"yes\"\n"));
    }
}

/// Every key that is written, and what leads a line of chrony's.
const KEYS: [&str; 34] = [
    "Name=",
    "Kind=",
    "Id=",
    "Mode=",
    "MIIMonitorSec=",
    "TransmitHashPolicy=",
    "LACPTransmitRate=",
    "MTUBytes=",
    "RequiredForOnline=",
    "LLMNR=no",
    "MulticastDNS=no",
    "DHCP=",
    "IPv6AcceptRA=",
    "LinkLocalAddressing=",
    "ConfigureWithoutCarrier=",
    "VLAN=",
    "Bond=",
    "Address=",
    "Gateway=",
    "Destination=",
    "Metric=",
    "UseHostname=",
    "UseDNS=",
    "UseNTP=",
    "ClientIdentifier=mac",
    "DNS=",
    "FallbackDNS=",
    "Domains=",
    "server ",
    "pool ",
    "[Match]",
    "[Link]",
    "[Network]",
    "[Route]",
];

fn check(text: &str) {
    let Ok(settings) = parse_settings(text, Path::new("x")) else { return };
    for (path, rendered) in files(&settings) {
        assert!(path.components().all(|part| part.as_os_str() != ".."), "{}", path.display());
        let legal = |line: &str| {
            line.is_empty()
                || line.starts_with('#')
                || ["[NetDev]", "[VLAN]", "[Bond]", "[DHCPv4]", "[DHCPv6]", "[IPv6AcceptRA]", "[Resolve]"]
                    .contains(&line)
                || KEYS.iter().any(|word| line.starts_with(word))
        };
        assert!(rendered.lines().all(legal), "{rendered}");
        let said = rendered.lines().filter(|line| !line.starts_with('#')).collect::<String>();
        assert!(!said.contains(['*', '?', '%', '!', '\\', '\r', ';', '#']), "{rendered}");
    }
}
