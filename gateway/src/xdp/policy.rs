//! From rows to what the kernel's tables hold: entries by port, and sets of prefixes where the other side matters.
//!
//! The first row that matches decides. A prefix of a set has the value of the first row that covers it, and the
//! kernel takes the longest prefix that holds an address. That is the first matching row: if row *r* is the first
//! that matches an address, by its prefix *q*, then the longest stored prefix *p* lies within *q*, so *r* covers *p*;
//! and every row that covers *p* matches the address too, so none before *r* does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use portcullis_ebpf_common::rules::{RuleKey, RuleValue};
use portcullis_ebpf_common::tables::{Action, RULES_MAX, SOURCES_MAX};
use portcullis_ebpf_common::{self as common, Bogons};
use serde::{Deserialize, Serialize};

use super::egress::{self, EgressRow};
use super::rules::{Row, Table};
use crate::config::protocols;
use crate::config::{Config, XdpConfig};

/// One row, for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The role, or [`common::rules::EGRESS`].
    pub role: u8,
    /// 0 for every protocol.
    pub protocol: u8,
    /// All, or of a protocol without any, where absent.
    pub ports: Option<RangeInclusive<u16>>,
    /// Of the other side; everywhere where empty.
    pub prefixes: Vec<IpNet>,
    pub value: RuleValue,
}

impl Line {
    fn has_port(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }

    fn covers(&self, prefix: &IpNet) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|own| own.contains(prefix))
    }

    /// Whether the row is about such a packet.
    #[must_use]
    pub fn matches(&self, role: u8, protocol: u8, port: u16, address: IpAddr) -> bool {
        self.role == role
            && (self.protocol == 0 || self.protocol == protocol)
            && self.has_port(port)
            && self.covers(&IpNet::from(address))
    }
}

/// The entries of the tables. Sets are counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub rules: BTreeMap<RuleKey, RuleValue>,
    pub sources: BTreeMap<(u32, IpNet), RuleValue>,
}

/// One row as people see it, in the order in which rows decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleRow {
    /// `in`, or `out` for what the machine itself begins.
    pub direction: String,
    /// Of the interface by which it comes in; empty for what goes out.
    pub role: String,
    pub protocol: String,
    /// A port, a range, or empty for all.
    pub ports: String,
    /// Sources of what comes in, destinations of what goes out; empty for everywhere.
    pub prefixes: Vec<String>,
    pub action: String,
    /// Of a limit: so many a second from each source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    pub origin: String,
}

impl From<&Row> for RuleRow {
    fn from(row: &Row) -> Self {
        Self {
            direction: "in".to_owned(),
            role: row.role.as_str().to_owned(),
            protocol: protocols::shown(row.protocol),
            ports: shown(row.ports.as_ref()),
            prefixes: row.from.iter().map(ToString::to_string).collect(),
            action: row.action.as_str().to_owned(),
            rate: (row.action == Action::Limit).then_some(row.per_second),
            origin: row.origin.clone(),
        }
    }
}

impl From<&EgressRow> for RuleRow {
    fn from(row: &EgressRow) -> Self {
        Self {
            direction: "out".to_owned(),
            role: String::new(),
            protocol: protocols::shown(row.protocol),
            ports: shown(row.ports.as_ref()),
            prefixes: row.to.iter().map(ToString::to_string).collect(),
            action: row.action.as_str().to_owned(),
            rate: None,
            origin: row.origin.clone(),
        }
    }
}

fn shown(ports: Option<&RangeInclusive<u16>>) -> String {
    match ports.map(|ports| (ports.start(), ports.end())) {
        None => String::new(),
        Some((first, last)) if first == last => first.to_string(),
        Some((first, last)) => format!("{first}-{last}"),
    }
}

/// All rows as people see them: those for what comes in, then those for what goes out.
#[must_use]
pub fn rule_rows(config: &Config, xdp: &XdpConfig) -> Vec<RuleRow> {
    let table = Table::new(config, xdp);
    let out = egress::rows(config, xdp);
    table.rows().iter().map(RuleRow::from).chain(out.iter().map(RuleRow::from)).collect()
}

/// Everything that a reload changes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub entries: Compiled,
    pub bogons: Bogons,
    pub egress_closed: bool,
    /// Whether anything is asked about what leaves.
    pub has_egress: bool,
}

impl Policy {
    /// # Errors
    /// When there is more than the kernel's tables hold.
    pub fn new(config: &Config, xdp: &XdpConfig) -> Result<Self, String> {
        let mut lines = Table::new(config, xdp).lines();
        let has_egress = xdp.egress_closed || !xdp.egress.is_empty();
        if has_egress {
            lines.extend(egress::lines(&egress::rows(config, xdp)));
        }
        let entries = compile(&lines)?;
        Ok(Self { entries, bogons: xdp.bogons, egress_closed: xdp.egress_closed, has_egress })
    }

    /// The word that puts it in force.
    #[must_use]
    pub fn word(&self, second: bool) -> u64 {
        common::Policy::new(second, self.bogons, self.egress_closed).to_word()
    }
}

/// # Errors
/// When there is more than the kernel's tables hold.
pub fn compile(lines: &[Line]) -> Result<Compiled, String> {
    let mut work = Work { lines, sets: BTreeMap::new(), compiled: Compiled::default() };
    let tables: BTreeSet<(u8, u8)> = lines.iter().map(|line| (line.role, line.protocol)).collect();
    for (role, protocol) in tables {
        let about = |line: &Line| line.role == role && (line.protocol == 0 || line.protocol == protocol);
        let rows: Vec<usize> = (0..lines.len()).filter(|row| lines.get(*row).is_some_and(about)).collect();
        work.protocol(role, protocol, &rows)?;
    }
    Ok(work.compiled)
}

#[derive(Debug)]
struct Work<'a> {
    lines: &'a [Line],
    /// Sets by the rows that they are made of.
    sets: BTreeMap<Vec<usize>, u32>,
    compiled: Compiled,
}

impl<'a> Work<'a> {
    fn of(&self, rows: &[usize]) -> Vec<&'a Line> {
        rows.iter().filter_map(|row| self.lines.get(*row)).collect()
    }

    fn protocol(&mut self, role: u8, protocol: u8, rows: &[usize]) -> Result<(), String> {
        let lines = self.lines;
        let is = |row: &usize, wanted: &dyn Fn(&Line) -> bool| lines.get(*row).is_some_and(wanted);
        let without: Vec<usize> =
            rows.iter().copied().filter(|row| is(row, &|line| line.ports.is_none())).collect();
        if let Some(value) = self.value(without)? {
            self.insert(RuleKey::new(role, protocol, 0), value)?;
        }
        // Between two neighbouring bounds all ports have the same rows.
        let ranges = || rows.iter().filter_map(|row| lines.get(*row)?.ports.clone());
        let bounds: BTreeSet<u32> =
            ranges().flat_map(|ports| [u32::from(*ports.start()), u32::from(*ports.end()) + 1]).collect();
        for (first, after) in bounds.iter().zip(bounds.iter().skip(1)) {
            let Ok(port) = u16::try_from(*first) else { continue };
            if !ranges().any(|ports| ports.contains(&port)) {
                continue;
            }
            let about: Vec<usize> =
                rows.iter().copied().filter(|row| is(row, &|line| line.has_port(port))).collect();
            let Some(value) = self.value(about)? else { continue };
            for port in (*first..*after).filter_map(|port| u16::try_from(port).ok()) {
                self.insert(RuleKey::new(role, protocol, port), value)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, key: RuleKey, value: RuleValue) -> Result<(), String> {
        self.compiled.rules.insert(key, value);
        if self.compiled.rules.len() > usize::try_from(RULES_MAX).unwrap_or(usize::MAX) {
            return Err(format!(
                "the rules open or close more than {RULES_MAX} single ports; narrow the ranges in [[xdp.rule]] and \
                 [[xdp.egress]]"
            ));
        }
        Ok(())
    }

    /// What holds where these rows are about a port, the first before the others.
    fn value(&mut self, mut rows: Vec<usize>) -> Result<Option<RuleValue>, String> {
        // Behind a row about everywhere no other decides.
        let everywhere = |row: &usize| self.lines.get(*row).is_some_and(|line| line.prefixes.is_empty());
        if let Some(last) = rows.iter().position(everywhere) {
            rows.truncate(last + 1);
        }
        let lines = self.of(&rows);
        let Some(first) = lines.first() else { return Ok(None) };
        if first.prefixes.is_empty() {
            return Ok(Some(first.value));
        }
        if let Some(set) = self.sets.get(&rows) {
            return Ok(Some(RuleValue::by_address(*set)));
        }
        let set = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let any = any.map(|address| IpNet::new_assert(address, 0));
        for line in &lines {
            for prefix in if line.prefixes.is_empty() { &any[..] } else { &line.prefixes } {
                let prefix = prefix.trunc();
                let Some(decides) = lines.iter().find(|line| line.covers(&prefix)) else { continue };
                self.compiled.sources.insert((set, prefix), decides.value);
            }
        }
        if self.compiled.sources.len() > usize::try_from(SOURCES_MAX).unwrap_or(usize::MAX) {
            return Err(format!(
                "the rules name more than {SOURCES_MAX} prefixes for different ports; join ports or prefixes in \
                 [[xdp.rule]] and [[xdp.egress]]"
            ));
        }
        self.sets.insert(rows, set);
        Ok(Some(RuleValue::by_address(set)))
    }
}

impl Compiled {
    /// What the kernel finds: the entry of the port, and the longest prefix of its set.
    #[must_use]
    pub fn find(&self, keys: &[RuleKey], address: IpAddr) -> Option<RuleValue> {
        let listed = keys.iter().find_map(|key| self.rules.get(key))?;
        let Some(set) = listed.set() else { return Some(*listed) };
        let of_set = self.sources.iter().filter(|((of, prefix), _)| *of == set && prefix.contains(&address));
        of_set.max_by_key(|((_, prefix), _)| prefix.prefix_len()).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_ebpf_common::egress_keys;
    use portcullis_ebpf_common::rules::EGRESS;
    use proptest::prelude::*;

    use super::*;

    /// Few bits differ, so that prefixes and addresses meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0_u8..4, 0_u8..4).prop_map(|(a, b)| IpAddr::from([10, a << 6, b << 6, 1]));
        let v6 = (0_u16..4).prop_map(|a| IpAddr::from([0x2001, a << 14, 0, 0, 0, 0, 0, 1]));
        prop_oneof![v4, v6]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0_u8..=32).prop_map(|(address, length)| IpNet::new_assert(address, length).trunc())
    }

    fn line(role: u8) -> impl Strategy<Value = Line> {
        let ports = proptest::option::weighted(0.8, (1_u16..6, 0_u16..4));
        let prefixes = proptest::collection::vec(prefix(), 0..3);
        (0_u8..3, ports, prefixes, 0_u16..9).prop_map(move |(protocol, ports, prefixes, row)| {
            // Rows at the interfaces have a protocol, and ports where it has them; egress rows may lack both.
            let protocol = if role == EGRESS { [0, 6, 17] } else { [6, 17, 6] }[usize::from(protocol)];
            let ports = ports.or_else(|| (role != EGRESS).then_some((1, 9)));
            let ports = ports.filter(|_| protocol != 0).map(|(first, more)| first..=first + more);
            Line { role, protocol, ports, prefixes, value: RuleValue::limit(row, 1) }
        })
    }

    proptest! {
        /// The kernel's way to the answer is that of a search from the first row to the last.
        #[test]
        fn the_first_row_decides(
            lines in prop_oneof![
                proptest::collection::vec(line(1), 0..12),
                proptest::collection::vec(line(EGRESS), 0..12),
            ],
            addresses in proptest::collection::vec(address(), 1..6),
        ) {
            let compiled = compile(&lines).unwrap();
            let role = lines.first().map_or(1, |line| line.role);
            for (address, protocol, port) in addresses.iter().flat_map(|address| {
                [6, 17, 47].into_iter().flat_map(move |protocol| (1..11).map(move |port| (*address, protocol, port)))
            }) {
                let port = if protocol == 47 { 0 } else { port };
                let first = lines.iter().find(|line| line.matches(role, protocol, port, address));
                let keys = match role {
                    EGRESS => egress_keys(protocol, port).to_vec(),
                    _ => vec![RuleKey::new(role, protocol, port)],
                };
                prop_assert_eq!(
                    compiled.find(&keys, address),
                    first.map(|line| line.value),
                    "{} {} {}", address, protocol, port
                );
            }
        }
    }

    #[test]
    fn ports_with_the_same_rows_share_a_set() {
        let line = |ports, prefix: &str| Line {
            role: 1,
            protocol: 6,
            ports: Some(ports),
            prefixes: vec![prefix.parse().unwrap()],
            value: RuleValue::limit(1, 1),
        };
        let compiled = compile(&[line(1000..=2000, "10.0.0.0/8"), line(1500..=1500, "10.1.0.0/16")]).unwrap();
        assert_eq!((compiled.rules.len(), compiled.sources.len()), (1001, 3));
    }

    #[test]
    fn more_than_the_tables_hold_is_refused() {
        let line = |protocol, ports| Line {
            role: 1,
            protocol,
            ports: Some(ports),
            prefixes: Vec::new(),
            value: RuleValue::limit(1, 1),
        };
        assert!(compile(&[line(6, 1..=u16::MAX)]).is_ok());
        assert!(compile(&[line(6, 1..=u16::MAX), line(17, 1..=2)]).unwrap_err().contains("65536"));
        let prefixes = (0..=16_384_u32).map(|n| IpNet::from(IpAddr::from(Ipv4Addr::from(n)))).collect();
        assert!(compile(&[Line { prefixes, ..line(6, 1..=1) }]).unwrap_err().contains("16384"));
    }
}
