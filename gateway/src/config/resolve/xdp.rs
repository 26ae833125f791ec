//! `[xdp]`: interfaces with their roles, and port rules; and that administrators are not locked out.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_ebpf_common::Bogons;
use portcullis_ebpf_common::forward::FORWARDS_MAX;
use portcullis_ebpf_common::tables::{
    Action, BANS_MAX, EVENTS_MAX, FLOWS_MAX, FRAGMENTS_MAX, INTERFACES_MAX, Role,
};

use super::{Resolver, rows};
use crate::config::file;
use crate::config::presets::Preset;
use crate::config::reader::{Located, shown};
use crate::config::{PINS_DEFAULT, keeps_management, protocols};
use crate::config::{XdpConfig, XdpEgress, XdpInterface, XdpMode, XdpRule, XdpSizes};

/// Rules as written; the kernel's table has a bound of its own for single ports.
const RULES_MAX: usize = 1_000;
/// `IFNAMSIZ` of the kernel, without the final zero.
const NAME_MAX_BYTES: usize = 15;
/// How long a changed policy waits to be confirmed, and bounds of it.
const CONFIRM_DEFAULT: Duration = Duration::from_secs(60);
const CONFIRM_MAX: Duration = Duration::from_hours(1);
const PROTOCOL_EXPECTED: &str = "tcp, udp, another name such as \"vrrp\" or \"esp\", or a number up to 255";
/// A limit above that limits nothing that a gateway can take.
const RATE_MAX: u32 = 10_000_000;
/// The kernel allocates whole tables when they are made: a million flows take about 150 MB.
const ENTRIES_MAX: usize = 4_194_304;
/// A ring of 16 MB.
const EVENTS_MOST: usize = 262_144;
/// Enough for people to see what is going on, and little against what a processor can drop.
const EVENT_RATE: usize = 100;
const EVENT_RATE_MOST: usize = 100_000;

fn fits(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Resolver<'_> {
    pub(super) fn xdp(&mut self, Located { value: typed, at }: Located<file::Xdp>) -> Option<XdpConfig> {
        let presets = Preset::ALL.map(|preset| (preset.as_str(), preset));
        let modes = [XdpMode::Auto, XdpMode::Driver, XdpMode::Generic].map(|mode| (mode.as_str(), mode));
        let preset = self.choice("preset", typed.preset.as_ref(), &presets);
        let mode = self.choice("mode", typed.mode.as_ref(), &modes).unwrap_or(XdpMode::Auto);
        let pins = self.path_or("pin_dir", typed.pin_dir, PINS_DEFAULT);
        let expected = "a [[xdp.interface]] table for each interface that is filtered";
        self.required(typed.interface.as_ref(), at, "[xdp]", "interface", expected)?;
        let interfaces = self.xdp_interfaces(typed.interface);
        if let Some(rules) = &typed.rule {
            self.check_length("rule", rules.at, rules.value.len(), RULES_MAX);
        }
        let rules: Vec<XdpRule> =
            rows(typed.rule).into_iter().take(RULES_MAX).filter_map(|row| self.xdp_rule(row)).collect();
        let egress = self.xdp_egress_rows(typed.egress);
        let egress_policies = [("open", false), ("closed", true)];
        let egress_closed = self.choice("egress_policy", typed.egress_policy.as_ref(), &egress_policies);
        let degrees = Bogons::ALL.map(|bogons| (bogons.as_str(), bogons));
        let bogons = self.choice("bogons", typed.bogons.as_ref(), &degrees).unwrap_or(Bogons::Martians);
        let confirm = self.duration("confirm", typed.confirm, CONFIRM_DEFAULT, Duration::ZERO..=CONFIRM_MAX);
        let cgroup = typed.cgroup.map(|typed| self.path("cgroup", &typed));
        let allow_no_management = typed.allow_no_management.is_some_and(|typed| typed.value);
        let roles: Vec<Role> = interfaces.iter().map(|interface| interface.role).collect();
        if !allow_no_management && !keeps_management(&roles, &rules) {
            self.problems
                .add(
                    at,
                    "[xdp] would lock administrators out: SSH is not accepted on an interface of role mgmt",
                )
                .expected(
                    "an interface of role \"mgmt\" and a rule that accepts its tcp port 22, or \
                     `allow_no_management = true` where administrators come another way",
                );
        }
        let mut size = |key, typed, default, bounds: RangeInclusive<usize>| {
            let number = self.number(key, typed, default, bounds);
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let sizes = XdpSizes {
            flows: size("flows", typed.flows, fits(FLOWS_MAX), 2..=ENTRIES_MAX),
            forwards: size("forwards", typed.forwards, fits(FORWARDS_MAX), 2..=ENTRIES_MAX),
            fragments: size("fragments", typed.fragments, fits(FRAGMENTS_MAX), 16..=ENTRIES_MAX),
            bans: size("bans", typed.bans, fits(BANS_MAX), 1..=ENTRIES_MAX),
            events: size("events", typed.events, fits(EVENTS_MAX), 32..=EVENTS_MOST),
        };
        let event_rate = size("event_rate", typed.event_rate, EVENT_RATE, 0..=EVENT_RATE_MOST);
        let egress_closed = egress_closed.unwrap_or(false);
        let flood = self.flood(typed.flood);
        let steering = self.steering(typed.steering.as_ref());
        Some(XdpConfig {
            interfaces,
            rules,
            bogons,
            egress,
            egress_closed,
            cgroup,
            confirm,
            preset,
            mode,
            pins,
            allow_no_management,
            sizes,
            event_rate,
            flood,
            steering,
        })
    }

    fn xdp_interfaces(
        &mut self,
        typed: Option<Located<Vec<Located<file::XdpInterface>>>>,
    ) -> Vec<XdpInterface> {
        let most = usize::try_from(INTERFACES_MAX).unwrap_or(usize::MAX);
        if let Some(typed) = &typed {
            self.check_length("interface", typed.at, typed.value.len(), most);
        }
        let mut seen = HashSet::new();
        let mut interfaces = Vec::new();
        for Located { value: row, at } in rows(typed).into_iter().take(most) {
            let table = "[[xdp.interface]]";
            let name = self.required(row.name, at, table, "name", "as `ip link` shows it");
            let role = self.role(row.role.as_ref(), at, table);
            let (Some(name), Some(role)) = (name, role) else { continue };
            let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
            if !(1..=NAME_MAX_BYTES).contains(&name.value.len()) || !name.value.bytes().all(legal) {
                self.problems
                    .add(name.at, format!("\"{}\" is no name of an interface", shown(&name.value)))
                    .expected(format!("1 to {NAME_MAX_BYTES} characters, as `ip link` shows it"));
            } else if !seen.insert(name.value.clone()) {
                self.problems
                    .add(name.at, format!("a second {table} is named `{}`", name.value))
                    .expected("one role for each interface");
            }
            interfaces.push(XdpInterface { name: name.value, role });
        }
        interfaces
    }

    fn xdp_rule(&mut self, Located { value: row, at }: Located<file::XdpRule>) -> Option<XdpRule> {
        let table = "[[xdp.rule]]";
        let role = self.role(row.role.as_ref(), at, table);
        self.required(row.protocol.as_ref(), at, table, "protocol", PROTOCOL_EXPECTED);
        let protocol = row.protocol.as_ref().and_then(|typed| self.protocol(typed));
        let actions = Action::ALL.map(|action| (action.as_str(), action));
        self.required(row.action.as_ref(), at, table, "action", "one of accept, drop, limit");
        let action = self.choice("action", row.action.as_ref(), &actions);
        let ports = self.ports_of(protocol, row.ports, at, table, true);
        let from = self.prefixes("from", row.from).iter().map(IpNet::trunc).collect();
        let per_second = match (action, row.rate) {
            (Some(Action::Limit), rate) => {
                let rate = self.required(rate, at, table, "rate", "so many a second, such as \"100/s\"");
                rate.and_then(|rate| self.rate(&rate)).unwrap_or(1)
            }
            (_, Some(rate)) => {
                self.problems
                    .add(rate.at, "`rate` without a limit")
                    .expected("`action = \"limit\"`, or no `rate`");
                1
            }
            (_, None) => 0,
        };
        Some(XdpRule { role: role?, protocol: protocol?, ports: ports?, from, action: action?, per_second })
    }

    fn xdp_egress_rows(&mut self, typed: Option<Located<Vec<Located<file::XdpEgress>>>>) -> Vec<XdpEgress> {
        if let Some(rows) = &typed {
            self.check_length("egress", rows.at, rows.value.len(), RULES_MAX);
        }
        rows(typed).into_iter().take(RULES_MAX).filter_map(|row| self.xdp_egress(row)).collect()
    }

    fn xdp_egress(&mut self, Located { value: row, at }: Located<file::XdpEgress>) -> Option<XdpEgress> {
        let table = "[[xdp.egress]]";
        let protocol = match &row.protocol {
            Some(typed) => self.protocol(typed),
            None => Some(0),
        };
        let ports = self.ports_of(protocol, row.ports, at, table, false);
        let to = self.prefixes("to", row.to).iter().map(IpNet::trunc).collect();
        let actions = [Action::Accept, Action::Drop].map(|action| (action.as_str(), action));
        self.required(row.action.as_ref(), at, table, "action", "accept or drop");
        let action = self.choice("action", row.action.as_ref(), &actions);
        Some(XdpEgress { protocol: protocol?, ports: ports?, to, action: action? })
    }

    /// Ports go with protocols that have them.
    fn ports_of(
        &mut self,
        protocol: Option<u8>,
        typed: Option<Located<Vec<Located<file::Ports>>>>,
        at: usize,
        table: &str,
        needed: bool,
    ) -> Option<Vec<RangeInclusive<u16>>> {
        match (protocol.is_some_and(protocols::has_ports), typed) {
            (true, None) if needed => {
                let expected = "ports and ranges, such as [22, \"3000-3010\"]";
                self.required::<()>(None, at, table, "ports", expected);
                None
            }
            (false, Some(typed)) if protocol.is_some() => {
                self.problems
                    .add(typed.at, "`ports` of a protocol that has none")
                    .expected("`protocol = \"tcp\"` or \"udp\", or no `ports`");
                None
            }
            (_, typed) => Some(typed.map(|typed| self.port_list(typed)).unwrap_or_default()),
        }
    }

    fn protocol(&mut self, typed: &Located<file::NameOrNumber>) -> Option<u8> {
        let (number, typed_as) = match &typed.value {
            file::NameOrNumber::Name(name) => (protocols::number(name), shown(name)),
            file::NameOrNumber::Number(number) => (u8::try_from(*number).ok(), number.to_string()),
        };
        let known = number.filter(|number| *number != 0 && !protocols::is_icmp(*number));
        if known.is_none() {
            let problem = if number.is_some_and(protocols::is_icmp) {
                "ICMP needs no rule: what is needed of it passes, and errors pass for live flows".to_owned()
            } else {
                format!("\"{typed_as}\" is no protocol")
            };
            self.problems.add(typed.at, problem).expected(PROTOCOL_EXPECTED);
        }
        known
    }

    fn rate(&mut self, typed: &Located<String>) -> Option<u32> {
        let number = typed.value.strip_suffix("/s").and_then(|number| number.trim().parse::<u32>().ok());
        let rate = number.filter(|rate| (1..=RATE_MAX).contains(rate));
        if rate.is_none() {
            self.problems
                .add(typed.at, format!("`rate` is \"{}\"", shown(&typed.value)))
                .expected(format!("so many a second, from \"1/s\" to \"{RATE_MAX}/s\""));
        }
        rate
    }

    fn role(&mut self, typed: Option<&Located<String>>, at: usize, table: &str) -> Option<Role> {
        let roles = Role::ALL.map(|role| (role.as_str(), role));
        self.required(typed, at, table, "role", "one of edge, farm, mgmt");
        self.choice("role", typed, &roles)
    }
}
