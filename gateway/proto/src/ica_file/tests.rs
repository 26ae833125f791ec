use alloc::format;

use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789ABCDEF0123456789ABCD";

fn session_file(application: &str, cgp: bool) -> Result<IcaFile, Malformed> {
    let ticket = TicketString::parse(&format!(";40;STA490101972;{HEX}")).unwrap();
    let gateway = HostPort::parse("gw.example.com:443").unwrap();
    IcaFile::gateway_session(&IcaSession { application, ticket: &ticket, gateway: &gateway, cgp })
}

#[test]
fn a_file_is_read_with_order_and_first_values() {
    let text = "\u{FEFF}; a comment\r\n[WFClient]\r\nVersion=2\n\n [ Desktop ] \r\nAddress = ;40;STA1;x \r\nEmpty=\r\n\
        Equals=a=b\r\nADDRESS=second";
    let file = IcaFile::parse(text).unwrap();
    assert_eq!(file.sections().collect::<Vec<_>>(), ["WFClient", "Desktop"]);
    assert_eq!(file.get("desktop", "address"), Some(";40;STA1;x"));
    assert_eq!(file.get("Desktop", "Empty"), Some(""));
    assert_eq!(file.get("Desktop", "Equals"), Some("a=b"));
    assert_eq!((file.get("Desktop", "none"), file.get("none", "Version")), (None, None));
    assert_eq!(file.entries("DESKTOP").count(), 4);
}

#[test]
fn every_fault_is_told_with_its_line() {
    let faults = IcaFile::parse("early=1\r\n[open\r\n[]\r\n[a]\r\nno value\r\n=x\r\nk=a\tb\r\n[b[c]\r\nok=1")
        .unwrap_err();
    assert_eq!(
        faults,
        [
            (1, Malformed::Missing { what: "ICA file section" }),
            (2, Malformed::Truncated { what: "ICA file section" }),
            (3, Malformed::Missing { what: "ICA file section" }),
            (5, Malformed::Missing { what: "ICA file value" }),
            (6, Malformed::Missing { what: "ICA file key" }),
            (7, Malformed::Illegal { what: "ICA file value" }),
            (8, Malformed::Illegal { what: "ICA file section" }),
        ]
    );
}

#[test]
fn at_most_20_faults_are_told() {
    assert_eq!(IcaFile::parse(&"x\n".repeat(19)).unwrap_err().len(), 19);
    assert_eq!(IcaFile::parse(&"x\n".repeat(21)).unwrap_err().len(), FAULTS_MAX);
}

#[test]
fn files_and_lines_are_bounded() {
    let line = |length: usize| format!("[a]\nk={}", "v".repeat(length - 2));
    assert!(IcaFile::parse(&line(LINE_MAX_BYTES)).is_ok());
    let too_long = Malformed::TooLong { what: "ICA file line", limit: LINE_MAX_BYTES };
    assert_eq!(IcaFile::parse(&line(LINE_MAX_BYTES + 1)), Err(Vec::from([(2, too_long)])));
    let mut file = IcaFile::default();
    assert_eq!(file.set("a", "k", &"v".repeat(LINE_MAX_BYTES - 2)), Ok(()));
    assert_eq!(file.set("a", "k", &"v".repeat(LINE_MAX_BYTES - 1)), Err(too_long));
    assert!(IcaFile::parse(&"\n".repeat(FILE_MAX_BYTES)).is_ok());
    let too_long = Malformed::TooLong { what: "ICA file", limit: FILE_MAX_BYTES };
    assert_eq!(IcaFile::parse(&"\n".repeat(FILE_MAX_BYTES + 1)), Err(Vec::from([(0, too_long)])));
}

#[test]
fn set_replaces_every_value_of_a_key_or_adds_one() {
    let mut file = IcaFile::parse("[a]\nk=1\nother=2\nK=3\n[A]\nk=4\n").unwrap();
    file.set("a", "k", "new").unwrap();
    file.set("a", "added", "5").unwrap();
    file.set("b", "k", "6").unwrap();
    assert_eq!(file.to_string(), "[a]\r\nk=new\r\nother=2\r\n\r\n[A]\r\nadded=5\r\n\r\n[b]\r\nk=6\r\n");
}

#[test]
fn nothing_that_would_change_the_file_around_it_can_be_set() {
    let mut file = IcaFile::default();
    for (section, key, value) in [
        ("", "k", "v"),
        ("a]", "k", "v"),
        ("a\r\n[b", "k", "v"),
        ("a", "", "v"),
        ("a", "k=", "v"),
        ("a", "[k", "v"),
        ("a", ";k", "v"),
        ("a", " k", "v"),
        ("a", "k", "v\r\nx=y"),
        ("a", "k", "v\0"),
        ("a", "k", " v"),
    ] {
        assert!(file.set(section, key, value).is_err(), "{section:?} {key:?} {value:?}");
    }
    assert_eq!(file, IcaFile::default());
}

#[test]
fn a_gateway_session_says_what_a_client_needs() {
    let file = session_file("Desktop", true).unwrap();
    let get = |key| file.get("Desktop", key).unwrap();
    assert_eq!(get("Address"), format!(";40;STA490101972;{HEX}"));
    assert_eq!((get("SSLEnable"), get("SSLProxyHost")), ("On", "gw.example.com:443"));
    assert_eq!((get("CGPAddress"), get("CGPSecurityTicket")), ("*:2598", "On"));
    assert_eq!((get("TransportDriver"), get("WinStationDriver")), ("TCP/IP", "ICA 3.0"));
    assert_eq!((get("BrowserProtocol"), get("SessionReliabilityTTL")), ("HTTPonTCP", "180"));
    assert_eq!(
        (file.get("WFClient", "ProxyType"), file.get("WFClient", "ProxyTimeout")),
        (Some("Auto"), Some("30000"))
    );
    assert_eq!(file.get("WFClient", "RemoveICAFile"), Some("yes"));
    assert_eq!(file.get("ApplicationServers", "Desktop"), Some(""));
    assert_eq!(IcaFile::parse(&file.to_string()), Ok(file));
    assert_eq!(session_file("Desktop", false).unwrap().get("Desktop", "CGPSecurityTicket"), Some("Off"));
}

#[test]
fn an_application_name_cannot_change_the_file() {
    for name in ["", " a", "a=b", "a]", "[a", "a\r\nb", ";a", "WFClient", "applicationservers"] {
        assert!(session_file(name, true).is_err(), "{name:?}");
    }
    assert!(session_file("Büro 2 (x86) & more", true).is_ok());
}

#[test]
fn no_value_is_printed() {
    assert!(!format!("{:?}", session_file("Desktop", true).unwrap()).contains("STA"));
}

proptest! {
    #[test]
    fn any_file_round_trips(entries in proptest::collection::vec(("[a-cA-C]", "[a-d]", "([!-~é]([ -~é]{0,20}[!-~é])?)?"), 0..20)) {
        let mut file = IcaFile::default();
        for (section, key, value) in &entries {
            file.set(section, key, value).unwrap();
        }
        let text = file.to_string();
        prop_assert_eq!(IcaFile::parse(&text), Ok(file.clone()));
        if let Some((section, key, value)) = entries.last() {
            prop_assert_eq!(file.get(section, key), Some(value.as_str()));
        }
    }

    #[test]
    fn what_is_read_is_written_and_read_the_same(text in "([\\[\\]=;a-c \t\r\né\u{FEFF}\u{85}]){0,60}") {
        if let Ok(file) = IcaFile::parse(&text) {
            prop_assert_eq!(IcaFile::parse(&file.to_string()), Ok(file));
        }
    }
}
