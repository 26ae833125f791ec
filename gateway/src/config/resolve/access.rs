//! `[[listener.allow]]`: from what was typed to the rules of core's policy.

use std::ops::RangeInclusive;

use portcullis_core::policy::{Destination, Rule};
use portcullis_proto::host_port::HostName;

use super::Resolver;
use super::sta::parse_prefix;
use crate::config::file::{self, Ports};
use crate::config::reader::{Located, shown};

/// Rules of one listener, and destinations or ports of one rule. Rules are tried in turn for each session.
const RULES_MAX: usize = 1_000;

impl Resolver<'_> {
    /// `ica_ports`: whether a rule without `ports` means 1494 and 2598.
    pub(super) fn access_list(
        &mut self,
        typed: Located<Vec<Located<file::Allow>>>,
        ica_ports: bool,
    ) -> Vec<Rule> {
        self.check_length("allow", typed.at, typed.value.len(), RULES_MAX);
        let mut rules = Vec::new();
        for Located { value: row, at } in typed.value.into_iter().take(RULES_MAX) {
            let table = "[[listener.allow]]";
            let expected = "prefixes, names or `*.` and a name, such as [\"10.10.0.0/16\"]";
            self.required(row.to.as_ref(), at, table, "to", expected);
            let to = self.list("to", row.to, RULES_MAX, |resolver, typed| resolver.destination(typed));
            let ports = match row.ports {
                Some(ports) => self.port_list(ports),
                None if ica_ports => Rule::ica_anywhere().ports,
                None => {
                    let expected = "ports and ranges, such as [1494, 2598, \"3000-3010\"]";
                    self.required::<()>(None, at, table, "ports", expected);
                    Vec::new()
                }
            };
            rules.push(Rule { to: to.into_iter().map(|to| to.value).collect(), ports });
        }
        rules
    }

    fn destination(&mut self, typed: &Located<String>) -> Option<Destination> {
        let text = typed.value.as_str();
        let prefix = parse_prefix(text);
        if let Ok(prefix) = prefix {
            return Some(Destination::Prefix(prefix));
        }
        let destination = match text.strip_prefix("*.") {
            Some(below) => HostName::parse(below).map(Destination::Below),
            None => HostName::parse(text).map(Destination::Name),
        };
        if destination.is_err() {
            let anywhere = (text == "*").then(|| "0.0.0.0/0".to_owned());
            self.problems
                .add(typed.at, format!("\"{}\" is neither a prefix nor a name", shown(text)))
                .expected("such as \"10.10.0.0/16\", \"vda1.example.com\" or \"*.farm.example.com\"")
                .suggest(prefix.err().flatten().or(anywhere));
        }
        destination.ok()
    }

    pub(super) fn port_list(&mut self, typed: Located<Vec<Located<Ports>>>) -> Vec<RangeInclusive<u16>> {
        self.check_length("ports", typed.at, typed.value.len(), RULES_MAX);
        let mut ports = Vec::new();
        for Located { value, at } in typed.value.into_iter().take(RULES_MAX) {
            let (range, shown) = match &value {
                Ports::One(number) => (port(*number).map(|port| port..=port), number.to_string()),
                Ports::Range(text) => (port_range(text), format!("\"{}\"", shown(text))),
            };
            match range {
                Some(range) => ports.push(range),
                None => {
                    self.problems
                        .add(at, format!("{shown} is neither a port nor a range of ports"))
                        .expected("1 to 65535, or a range such as \"3000-3010\", the lower one first");
                }
            }
        }
        ports
    }
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let read = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().and_then(port)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (read(first)?, read(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_are_read_and_nonsense_is_not() {
        assert_eq!(port_range("3000-3010"), Some(3000..=3010));
        assert_eq!(port_range("443"), Some(443..=443));
        for text in ["", "-", "0-1", "2-1", "1-65536", "1 - 2", "+1-2", "1-2-3", "a"] {
            assert_eq!(port_range(text), None, "{text}");
        }
    }
}
