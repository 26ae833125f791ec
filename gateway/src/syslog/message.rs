//! One entry of the journal as one message of RFC 5424, and its frame.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::config::FACILITY_DEFAULT;
use crate::log::rfc3339;

/// The highest that there is.
const FACILITY_MAX: u8 = 23;
const SEVERITY_MAX: u8 = 7;
/// `notice`, where an entry says nothing.
const SEVERITY_DEFAULT: u8 = 5;
/// RFC 5424 §6: lengths of the parts of the header.
const HOSTNAME_MAX: usize = 255;
const APP_NAME_MAX: usize = 48;
const PROCID_MAX: usize = 128;
/// What of a text is taken; a longer one is cut.
const TEXT_MAX_BYTES: usize = 8 * 1024;
/// RFC 5426 §3.2: what every receiver should take in one datagram.
const DATAGRAM_MAX_BYTES: usize = 2048;

/// The message of an entry, as journalctl writes it as JSON. `own`: the unit whose lines have the facility.
#[must_use]
pub fn message(entry: &Value, own: Option<&str>, facility: u8) -> Vec<u8> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let number = |name: &str, most: u8| {
        text(name).and_then(|text| text.parse::<u8>().ok()).filter(|number| *number <= most)
    };
    let is_own = own.is_some() && text("_SYSTEMD_UNIT") == own;
    let facility = match number("SYSLOG_FACILITY", FACILITY_MAX) {
        _ if is_own => facility,
        Some(said) => said,
        None => FACILITY_DEFAULT,
    };
    let severity = number("PRIORITY", SEVERITY_MAX).unwrap_or(SEVERITY_DEFAULT);
    let micros = text("__REALTIME_TIMESTAMP").and_then(|text| text.parse().ok());
    let at = micros.map(|micros| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)));
    let said = said(entry.get("MESSAGE"));
    let mut line = format!(
        "<{}>1 {} {} {} {} {} - ",
        u16::from(facility) * 8 + u16::from(severity),
        at.as_deref().unwrap_or("-"),
        header(text("_HOSTNAME"), HOSTNAME_MAX),
        header(text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM")), APP_NAME_MAX),
        header(text("_PID").or_else(|| text("SYSLOG_PID")), PROCID_MAX),
        if is_own { kind(&said) } else { "-" },
    );
    // Lines stay one entry, and nothing in them moves a terminal's cursor.
    line.extend(said.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }));
    let end = line.floor_char_boundary(TEXT_MAX_BYTES);
    line.truncate(end);
    line.into_bytes()
}

/// As it goes over a stream (RFC 5425 §4.3, RFC 6587 §3.4.1).
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    frame
}

/// As it goes in a datagram (RFC 5426).
#[must_use]
pub fn datagram(message: &[u8]) -> &[u8] {
    let mut end = message.len().min(DATAGRAM_MAX_BYTES);
    // Not in the middle of a character.
    while message.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    message.get(..end).unwrap_or(message)
}

/// MSGID: which kind of line it is, for filters.
fn kind(said: &str) -> &'static str {
    let target = |target: &str| {
        said.strip_prefix(target).is_some_and(|rest| rest.starts_with(": "))
            || said.contains(&format!("\"target\":\"{target}\""))
    };
    if target(crate::log::AUDIT_TARGET) {
        "AUDIT"
    } else if target(crate::log::SESSION_TARGET) || said.contains("\"event\":\"session\"") {
        "SESSION"
    } else {
        "LOG"
    }
}

/// PRINTUSASCII without spaces, or the NILVALUE.
fn header(text: Option<&str>, most: usize) -> String {
    let plain: String = text.unwrap_or_default().chars().filter(char::is_ascii_graphic).take(most).collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

/// A list of bytes where it is no UTF-8 (journalctl(1)).
fn said(message: Option<&Value>) -> String {
    match message {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(bytes)) => {
            let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let bytes: Vec<u8> = bytes.iter().filter_map(byte).take(TEXT_MAX_BYTES).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(message: &str) -> Value {
        json!({
            "__REALTIME_TIMESTAMP": "1700000000123456", "_HOSTNAME": "gw 1", "SYSLOG_IDENTIFIER": "portcullisd",
            "_PID": "77", "PRIORITY": "4", "SYSLOG_FACILITY": "3", "_SYSTEMD_UNIT": "portcullis.service",
            "MESSAGE": message,
        })
    }

    #[test]
    fn an_entry_becomes_a_message_of_rfc_5424() {
        let of = |message: &str| {
            String::from_utf8(super::message(&entry(message), Some("portcullis.service"), 20)).unwrap()
        };
        assert_eq!(
            of("portcullis::front: an\nevent"),
            "<164>1 2023-11-14T22:13:20.123Z gw1 portcullisd 77 LOG - portcullis::front: an event"
        );
        assert!(of("audit: who did what").contains(" 77 AUDIT - audit: "));
        assert!(of("session: session ended id=1").contains(" 77 SESSION - "));
        assert!(of(r#"{"target":"audit","message":"x"}"#).contains(" AUDIT - "));
        let other = message(&entry("x"), Some("other.service"), 20);
        assert!(other.starts_with(b"<28>1 ") && other.ends_with(b" 77 - - x"));
        assert_eq!(message(&json!({}), None, 20), b"<29>1 - - - - - - ");
    }

    #[test]
    fn a_frame_tells_its_length_in_octets() {
        assert_eq!(framed("<29>1 ü".as_bytes()), "8 <29>1 ü".as_bytes());
    }

    proptest! {
        #[test]
        fn whatever_an_entry_holds_it_stays_one_line_of_bounded_length(
            text in ".{0,200}", host in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let mut entry = entry(&text);
            entry["_HOSTNAME"] = host.into();
            let line = message(&entry, Some("portcullis.service"), 20);
            prop_assert!(!line.contains(&b'\n') && line.len() <= TEXT_MAX_BYTES);
            prop_assert_eq!(line.split(|byte| *byte == b' ').nth(2).is_some_and(|host| !host.is_empty()), true);
            entry["MESSAGE"] = bytes.into();
            prop_assert!(std::str::from_utf8(&message(&entry, None, 3)).is_ok());
        }

        #[test]
        fn a_datagram_is_whole_characters(text in "[aü€😀]{500,3000}") {
            let cut = datagram(text.as_bytes());
            prop_assert!(cut.len() <= DATAGRAM_MAX_BYTES && std::str::from_utf8(cut).is_ok());
        }
    }
}
