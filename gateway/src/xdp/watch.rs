//! Looks after the filter: what somebody or something has taken off its interface comes back, unless that was an
//! administrator's `portcullis xdp detach`.
//!
//! The sessions do not hang on it: without the program packets take their way through the kernel as ever.
//!
//! - The link or its pin is gone, or holds another program: put back, with a warning and a count.
//! - The interface is gone, or in another network namespace: the daemon goes on, and when an interface has the name
//!   again, it is filtered.
//! - The interface has another name: it stays filtered as long as no other interface has the old name.
//! - A VLAN with a role of its own is gone, has another number or another name: followed, see `vlans`.
//! - The link goes down and up again: the kernel keeps the program.
//! - The same holds for the programs for what leaves, at interfaces and at the daemon's cgroup.

use std::fmt;

use nix::net::if_::{if_indextoname, if_nametoindex};

use super::loader::attach::{Enforced, enforce, is_taken, program_of, replace};
use super::loader::error::chain;
use super::loader::{Active, Filtered, pins, program};
use super::{Kernel, XdpError, bonds, maps, netlink, outgoing, vlans};
use crate::sync::lock;

/// How an interface was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Attached,
    /// Filtered still, under that name.
    Renamed(String),
    /// By an administrator.
    Detached,
    /// There is no interface with the name, or it is in another network namespace.
    Gone,
    /// The filter cannot be put back.
    Lost(String),
}

/// For people, and one word for programs at its beginning.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.write_str("attached"),
            Self::Renamed(name) => write!(f, "renamed to {name}"),
            Self::Detached => f.write_str("detached"),
            Self::Gone => f.write_str("gone"),
            Self::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

impl Kernel {
    /// Looks at every interface once, and puts back what is missing. It may wait for drivers. Says whether forwarded
    /// packets can leave by other devices than before.
    pub fn watch(&self) -> bool {
        let Some(active) = &self.active else { return false };
        let detached = pins::is_marked_detached(&active.config.pins);
        if !detached && let Err(error) = lock(&active.maps).keep_pins(&active.config.pins) {
            tracing::warn!(error = %chain(&error), "bans cannot be pinned; they end with the daemon");
        }
        let mut interfaces = lock(&active.interfaces).clone();
        for interface in interfaces.iter_mut().filter(|interface| interface.vlan.is_none()) {
            let condition = if detached { Condition::Detached } else { look(active, interface) };
            if condition != interface.condition {
                tell(&interface.name, &condition);
                interface.condition = condition;
            }
        }
        let followed = netlink::devices().map_err(XdpError::Devices).and_then(|devices| {
            bonds::look(active, &mut interfaces, &devices)?;
            vlans::look(active, &mut interfaces, &devices)
        });
        if let Err(error) = followed {
            tracing::warn!(error = %chain(&error), "bonds, and VLANs with roles of their own, are not followed");
        }
        // Nobody else writes it.
        *lock(&active.interfaces) = interfaces;
        look_outside(active, detached);
        self.follow_links().unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "VLANs and other devices are not followed");
            false
        })
    }
}

/// Looks after the programs for what leaves, where there are any.
fn look_outside(active: &Active, detached: bool) {
    let Some(former) = lock(&active.outgoing).condition.clone() else { return };
    let found = if detached {
        Ok(Vec::new())
    } else {
        pins::prepare(&active.config.pins)
            .and_then(|()| outgoing::look(&mut lock(&active.ebpf), &active.config, &active.attached_names()))
    };
    let (condition, back) = match found {
        Ok(_) if detached => (Condition::Detached, Vec::new()),
        Ok(back) => (Condition::Attached, back),
        Err(error) => (Condition::Lost(chain(&error)), Vec::new()),
    };
    if !back.is_empty() {
        let at = back.join(" ");
        tracing::warn!(at, "programs for what leaves were taken off or replaced by others; they are back");
    }
    if let Condition::Lost(reason) = &condition
        && condition != former
    {
        tracing::error!(reason, "what leaves is not judged everywhere");
    }
    let mut state = lock(&active.outgoing);
    let repairs = u64::try_from(back.len()).unwrap_or(u64::MAX);
    state.repairs = state.repairs.saturating_add(repairs);
    state.condition = Some(condition);
}

pub(super) fn tell(interface: &str, condition: &Condition) {
    match condition {
        Condition::Attached => tracing::info!(interface, "packets are filtered again"),
        Condition::Detached => {
            tracing::warn!(interface, "an administrator has detached the filter; a restart puts it back");
        }
        Condition::Renamed(to) => {
            tracing::warn!(
                interface,
                to,
                "a filtered interface has another name; name it in [[xdp.interface]]"
            );
        }
        Condition::Gone => {
            tracing::warn!(
                interface,
                "a filtered interface is gone from this network namespace; sessions go on"
            );
        }
        Condition::Lost(reason) => tracing::error!(interface, reason, "packets are not filtered"),
    }
}

fn look(active: &Active, interface: &mut Filtered) -> Condition {
    let index = if_nametoindex(interface.name.as_str()).ok();
    let outcome = match index {
        Some(index) if index == interface.index => check(active, interface),
        Some(index) => adopt(active, interface, index),
        None => Ok(absent(active, interface)),
    };
    outcome.unwrap_or_else(|error| Condition::Lost(chain(&error)))
}

/// The interface is there; is the program?
fn check(active: &Active, interface: &mut Filtered) -> Result<Condition, XdpError> {
    let mut ebpf = lock(&active.ebpf);
    let program = program(&mut ebpf)?;
    let ours = program.info()?.id();
    let alive = interface.pin.exists()
        && program_of(&interface.pin) == Some(ours)
        && replace(program, &interface.pin);
    if alive && is_taken(program, interface.index, interface.mode) {
        return Ok(Condition::Attached);
    }
    drop(ebpf);
    if alive {
        // The link is on an interface that went to another network namespace; the one here has its name and number.
        outgoing::let_go(&active.config, &interface.name)?;
    }
    put_back(active, interface)?;
    if alive {
        tell_of_another(interface);
    } else {
        tracing::warn!(
            interface = interface.name,
            "the filter was taken off or replaced by others; it is back"
        );
    }
    Ok(Condition::Attached)
}

fn tell_of_another(interface: &Filtered) {
    tracing::warn!(interface = interface.name, "an interface with this name has come; it is filtered");
}

/// Another interface has the name now, or the old one has come back as a new one.
fn adopt(active: &Active, interface: &mut Filtered, index: u32) -> Result<Condition, XdpError> {
    if interface.pin.exists() {
        pins::remove(&interface.pin)?;
    }
    outgoing::let_go(&active.config, &interface.name)?;
    maps::withdraw(&mut lock(&active.ebpf), interface.index)?;
    interface.index = index;
    put_back(active, interface)?;
    tell_of_another(interface);
    Ok(Condition::Attached)
}

/// No interface has the name.
fn absent(active: &Active, interface: &Filtered) -> Condition {
    let name = if_indextoname(interface.index).ok().and_then(|name| name.into_string().ok());
    // The library takes the C library's "there is none" for a name without letters.
    let name = name.filter(|name| !name.is_empty());
    let in_force = || {
        let mut ebpf = lock(&active.ebpf);
        // What has the number may be another interface, and ours in another network namespace.
        interface.pin.exists()
            && program(&mut ebpf).is_ok_and(|program| {
                replace(program, &interface.pin) && is_taken(program, interface.index, interface.mode)
            })
    };
    match name {
        Some(name) if in_force() => Condition::Renamed(name),
        _ => Condition::Gone,
    }
}

fn put_back(active: &Active, interface: &mut Filtered) -> Result<(), XdpError> {
    pins::prepare(&active.config.pins)?;
    interface.value = interface.value.steered(active.cores.steers(&interface.name));
    let mut ebpf = lock(&active.ebpf);
    maps::assign(&mut ebpf, interface.index, interface.value)?;
    let Enforced { mode, reason, pin, .. } =
        enforce(program(&mut ebpf)?, &active.config, &interface.name, interface.index)?;
    (interface.mode, interface.mode_reason, interface.pin) = (mode, reason, pin);
    interface.repairs = interface.repairs.saturating_add(1);
    Ok(())
}
