//! The file that starts a session in a client: sections of `key=value` lines (PROTOCOL §5).
//!
//! Names compare without case, order is kept, and a value is never interpreted here. Comments (`;` at the start of
//! a line, where a ticket never stands) and empty lines are dropped.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::Malformed;
use crate::host_port::HostPort;
use crate::ticket::TicketString;

/// Longest file.
pub const FILE_MAX_BYTES: usize = 64 * 1024;
/// Longest line.
pub const LINE_MAX_BYTES: usize = 4096;
/// Most faults that one reading reports.
pub const FAULTS_MAX: usize = 20;

/// The section of settings for the client itself.
const CLIENT: &str = "WFClient";
/// The section that lists the application sections.
const SERVERS: &str = "ApplicationServers";

#[derive(Clone, PartialEq, Eq)]
struct Section {
    name: String,
    entries: Vec<(String, String)>,
}

/// An ICA file. Its values hold tickets and passwords, so `Debug` prints none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IcaFile {
    sections: Vec<Section>,
}

/// What a session through a gateway needs to be told.
#[derive(Clone, Copy, Debug)]
pub struct IcaSession<'a> {
    /// The name of the application or desktop.
    pub application: &'a str,
    pub ticket: &'a TicketString,
    /// The gateway's name and port as the client knows them.
    pub gateway: &'a HostPort,
    /// Session reliability (CGP) rather than SOCKS.
    pub cgp: bool,
}

impl IcaFile {
    /// Reads a file; a byte order mark is dropped.
    ///
    /// # Errors
    /// Every fault with its line, counted from 1, at most [`FAULTS_MAX`]; line 0 is the whole file.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, Malformed)>> {
        if text.len() > FILE_MAX_BYTES {
            return Err(Vec::from([(0, Malformed::TooLong { what: "ICA file", limit: FILE_MAX_BYTES })]));
        }
        let mut file = Self::default();
        let mut faults = Vec::new();
        for (number, line) in (1_usize..).zip(text.strip_prefix('\u{FEFF}').unwrap_or(text).lines()) {
            if let Err(fault) = file.read_line(line.trim()) {
                faults.push((number, fault));
                if faults.len() == FAULTS_MAX {
                    break;
                }
            }
        }
        if faults.is_empty() { Ok(file) } else { Err(faults) }
    }

    fn read_line(&mut self, line: &str) -> Result<(), Malformed> {
        if line.len() > LINE_MAX_BYTES {
            return Err(Malformed::TooLong { what: "ICA file line", limit: LINE_MAX_BYTES });
        }
        if line.is_empty() || line.starts_with(';') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or(Malformed::Truncated { what: "ICA file section" })?;
            check_section(name.trim())?;
            self.sections.push(Section { name: name.trim().to_string(), entries: Vec::new() });
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or(Malformed::Missing { what: "ICA file value" })?;
        check_key(key.trim())?;
        check_value(value.trim())?;
        let section = self.sections.last_mut().ok_or(Malformed::Missing { what: "ICA file section" })?;
        section.entries.push((key.trim().to_string(), value.trim().to_string()));
        Ok(())
    }

    /// The first value of a key.
    #[must_use]
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let sections = self.sections.iter().filter(|s| s.name.eq_ignore_ascii_case(section));
        let mut entries = sections.flat_map(|s| &s.entries);
        entries.find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    /// The names of the sections in their order.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|section| section.name.as_str())
    }

    /// The keys and values of a section in their order.
    pub fn entries<'a>(&'a self, section: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let sections = self.sections.iter().filter(|s| s.name.eq_ignore_ascii_case(section));
        sections.flat_map(|s| &s.entries).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Gives a key its only value in a section; both are added at the end when they are new.
    ///
    /// # Errors
    /// `Illegal` or `Missing` for a name or value that cannot stand in a file.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> Result<(), Malformed> {
        check_section(section)?;
        check_key(key)?;
        check_value(value)?;
        let length = key.len().saturating_add(value.len()).saturating_add("=".len());
        if length > LINE_MAX_BYTES {
            return Err(Malformed::TooLong { what: "ICA file line", limit: LINE_MAX_BYTES });
        }
        if !self.sections.iter().any(|s| s.name.eq_ignore_ascii_case(section)) {
            self.sections.push(Section { name: section.to_string(), entries: Vec::new() });
        }
        let mut value = Some(value.to_string());
        for section in self.sections.iter_mut().filter(|s| s.name.eq_ignore_ascii_case(section)) {
            section.entries.retain_mut(|(k, v)| {
                if !k.eq_ignore_ascii_case(key) {
                    return true;
                }
                let Some(value) = value.take() else { return false };
                *v = value;
                true
            });
        }
        let last = self.sections.iter_mut().filter(|s| s.name.eq_ignore_ascii_case(section)).last();
        if let (Some(section), Some(value)) = (last, value) {
            section.entries.push((key.to_string(), value));
        }
        Ok(())
    }

    /// The file for a session through a gateway: the one template.
    ///
    /// # Errors
    /// `Illegal`, `Missing` or `TooLong` for an application name that cannot stand in a file.
    pub fn gateway_session(session: &IcaSession<'_>) -> Result<Self, Malformed> {
        let application = session.application;
        if [CLIENT, SERVERS].iter().any(|taken| taken.eq_ignore_ascii_case(application)) {
            return Err(Malformed::Illegal { what: "application name" });
        }
        let ticket = session.ticket.expose();
        let gateway = session.gateway.to_string();
        let mut file = Self::default();
        let client = [
            ("Version", "2"),
            ("ProxyType", "Auto"),
            ("ProxyTimeout", "30000"),
            ("RemoveICAFile", "yes"),
            ("TransportReconnectEnabled", "On"),
            ("TransportReconnectDelay", "30"),
            ("TransportReconnectRetries", "3"),
        ];
        for (key, value) in client {
            file.set(CLIENT, key, value)?;
        }
        // The key is a section name, so an application name with `=` is refused here.
        file.set(SERVERS, application, "")?;
        let entries = [
            ("Address", ticket.as_str()),
            ("BrowserProtocol", "HTTPonTCP"),
            ("CGPAddress", "*:2598"),
            ("CGPSecurityTicket", if session.cgp { "On" } else { "Off" }),
            ("HDXoverUDP", "Off"),
            ("SSLEnable", "On"),
            ("SSLProxyHost", gateway.as_str()),
            ("SessionReliabilityTTL", "180"),
            ("TransportDriver", "TCP/IP"),
            ("WinStationDriver", "ICA 3.0"),
        ];
        for (key, value) in entries {
            file.set(application, key, value)?;
        }
        Ok(file)
    }
}

/// No control characters, and no space at either end, since reading would drop it.
fn is_plain(text: &str) -> bool {
    text == text.trim() && !text.chars().any(char::is_control)
}

fn check_section(name: &str) -> Result<(), Malformed> {
    const WHAT: &str = "ICA file section";
    if name.is_empty() {
        return Err(Malformed::Missing { what: WHAT });
    }
    if !is_plain(name) || name.contains(['[', ']']) {
        return Err(Malformed::Illegal { what: WHAT });
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Malformed> {
    const WHAT: &str = "ICA file key";
    if key.is_empty() {
        return Err(Malformed::Missing { what: WHAT });
    }
    if !is_plain(key) || key.contains('=') || key.starts_with([';', '[', '\u{FEFF}']) {
        return Err(Malformed::Illegal { what: WHAT });
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), Malformed> {
    if is_plain(value) { Ok(()) } else { Err(Malformed::Illegal { what: "ICA file value" }) }
}

/// The text of the file, with CRLF.
impl fmt::Display for IcaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, section) in self.sections.iter().enumerate() {
            if number > 0 {
                f.write_str("\r\n")?;
            }
            write!(f, "[{}]\r\n", section.name)?;
            for (key, value) in &section.entries {
                write!(f, "{key}={value}\r\n")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for IcaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IcaFile").field("sections", &self.sections.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
