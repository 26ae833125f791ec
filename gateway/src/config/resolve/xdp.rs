//! `[xdp]`: interfaces with their roles, and port rules; and that administrators are not locked out.

use std::collections::HashSet;

use portcullis_ebpf_common::Protocol;
use portcullis_ebpf_common::tables::{Action, INTERFACES_MAX, Role};

use super::{Resolver, rows};
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::{XdpConfig, XdpInterface, XdpMode, XdpRule};
use crate::xdp::presets::Preset;
use crate::xdp::{PINS_DEFAULT, rules};

/// Rules as written; the kernel's table has a bound of its own for single ports.
const RULES_MAX: usize = 1_000;
/// `IFNAMSIZ` of the kernel, without the final zero.
const NAME_MAX_BYTES: usize = 15;

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
        let allow_no_management = typed.allow_no_management.is_some_and(|typed| typed.value);
        let roles: Vec<Role> = interfaces.iter().map(|interface| interface.role).collect();
        if !allow_no_management && !rules::keeps_management(&roles, &rules) {
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
        let flood = self.flood(typed.flood);
        let steering = self.steering(typed.steering.as_ref());
        Some(XdpConfig { flood, steering, interfaces, rules, preset, mode, pins, allow_no_management })
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
        let protocols = Protocol::ALL.map(|protocol| (protocol.as_str(), protocol));
        self.required(row.protocol.as_ref(), at, table, "protocol", "tcp or udp");
        let protocol = self.choice("protocol", row.protocol.as_ref(), &protocols);
        let actions = [Action::Accept, Action::Drop].map(|action| (action.as_str(), action));
        self.required(row.action.as_ref(), at, table, "action", "accept or drop");
        let action = self.choice("action", row.action.as_ref(), &actions);
        let expected = "ports and ranges, such as [22, \"3000-3010\"]";
        let ports = self.required(row.ports, at, table, "ports", expected);
        let ports = ports.map(|ports| self.port_list(ports));
        Some(XdpRule { role: role?, protocol: protocol?, ports: ports?, action: action? })
    }

    fn role(&mut self, typed: Option<&Located<String>>, at: usize, table: &str) -> Option<Role> {
        let roles = Role::ALL.map(|role| (role.as_str(), role));
        self.required(typed, at, table, "role", "one of edge, farm, mgmt");
        self.choice("role", typed, &roles)
    }
}
