//! Puts the program onto an interface: in the place of a pinned one, or anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};

use portcullis_ebpf_common::tables::Role;

use super::error::{XdpError, chain};
use super::pins::{pin_path, remove};
use super::{Active, Filtered};
use crate::config::{XdpConfig, XdpMode};
use crate::sync::lock;
use crate::xdp::netlink;
use crate::xdp::vlans::Place;
use crate::xdp::watch::Condition;

/// The mode in which a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Driver,
    Generic,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Driver, Self::Generic];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }

    fn flags(self) -> AyaMode {
        match self {
            Self::Driver => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }
}

impl Active {
    /// What programs are attached to: no VLANs.
    pub(in crate::xdp) fn attached_names(&self) -> Vec<String> {
        let interfaces = lock(&self.interfaces);
        interfaces.iter().filter(|one| one.vlan.is_none()).map(|one| one.name.clone()).collect()
    }
}

/// Filters all interfaces, or leaves those alone that were not filtered before: a daemon that does not start must
/// not leave a filter behind. VLANs are filtered where the interface that carries them is.
pub(super) fn all(program: &mut Xdp, xdp: &XdpConfig, places: Vec<Place>) -> Result<Vec<Filtered>, XdpError> {
    let mut enforced: HashMap<String, Enforced> = HashMap::new();
    for place in places.iter().filter(|place| place.vlan.is_none()) {
        match enforce(program, xdp, &place.name, place.index) {
            Ok(done) => drop(enforced.insert(place.name.clone(), done)),
            Err(error) => {
                enforced.values().filter(|done| done.is_new).for_each(|done| drop(remove(&done.pin)));
                return Err(error);
            }
        }
    }
    let mut interfaces = Vec::new();
    for Place { name, role, index, value, vlan, ports } in places {
        let at = vlan.as_ref().map_or(&name, |vlan| &vlan.trunk);
        let Some(Enforced { mode, reason, pin, .. }) = enforced.get(at) else { continue };
        let (role_name, mode_name) = (role.map_or("none", Role::as_str), mode.as_str());
        tracing::info!(
            interface = name,
            at,
            role = role_name,
            mode = mode_name,
            reason,
            "packets are filtered"
        );
        let (mode, mode_reason, pin, condition) = (*mode, reason.clone(), pin.clone(), Condition::Attached);
        let repairs = 0;
        let filtered =
            Filtered { name, role, vlan, ports, mode, mode_reason, index, value, pin, condition, repairs };
        interfaces.push(filtered);
    }
    Ok(interfaces)
}

/// An interface on which the program runs.
pub(in crate::xdp) struct Enforced {
    pub(in crate::xdp) mode: Mode,
    /// Why it runs there, for people.
    pub(in crate::xdp) reason: String,
    pub(in crate::xdp) pin: PathBuf,
    /// Whether nothing of ours was there before.
    is_new: bool,
}

/// Puts the program on one interface, whatever is there of an earlier one.
pub(in crate::xdp) fn enforce(
    program: &mut Xdp,
    xdp: &XdpConfig,
    interface: &str,
    index: u32,
) -> Result<Enforced, XdpError> {
    let modes: &[Mode] = match xdp.mode {
        XdpMode::Auto => &Mode::ALL,
        XdpMode::Driver => &[Mode::Driver],
        XdpMode::Generic => &[Mode::Generic],
    };
    for mode in Mode::ALL {
        let pin = pin_path(&xdp.pins, mode, interface);
        if !pin.exists() {
            continue;
        }
        if modes.contains(&mode) && replace(program, &pin) && is_taken(program, index, mode) {
            let reason = reason(xdp.mode, mode, index, None);
            return Ok(Enforced { mode, reason, pin, is_new: false });
        }
        // Another mode is wanted, or the link's interface has gone or has another name now.
        remove(&pin)?;
    }
    let mut refused = None;
    for mode in modes {
        match program.attach_to_if_index(index, mode.flags()) {
            Ok(id) => {
                if let Some(error) = &refused {
                    tracing::warn!(
                        interface,
                        error = %chain(error),
                        "the driver cannot run the filter; it runs behind the driver, which costs more"
                    );
                }
                let pin = pin_path(&xdp.pins, *mode, interface);
                let reason = reason(xdp.mode, *mode, index, refused.as_ref());
                return pinned(program, id, &pin)
                    .map(|()| Enforced { mode: *mode, reason, pin, is_new: true })
                    .map_err(|reason| XdpError::Link { interface: interface.to_owned(), reason });
            }
            Err(error) => refused = Some(error),
        }
    }
    let source = refused.unwrap_or(ProgramError::NotLoaded);
    Err(XdpError::Attach { interface: interface.to_owned(), source })
}

/// Why the program runs where it does.
fn reason(wanted: XdpMode, mode: Mode, index: u32, refused: Option<&ProgramError>) -> String {
    match (mode, wanted, refused) {
        (Mode::Driver, ..) => "the driver runs the filter".to_owned(),
        (Mode::Generic, XdpMode::Generic, _) => "the configuration wants it behind the driver".to_owned(),
        // Kernels before 6.3 cannot say whether it could.
        _ if knows_programs(index) == Some(false) => {
            "the driver runs no programs: the kernel runs it, which costs more".to_owned()
        }
        (.., Some(error)) => format!(
            "the driver refused ({}), as for jumbo frames, LRO or too few queues: the kernel runs it, which costs more",
            chain(error)
        ),
        (.., None) => {
            "the driver refused at an earlier start: the kernel runs it, which costs more".to_owned()
        }
    }
}

/// Whether the device's driver runs programs at all.
fn knows_programs(index: u32) -> Option<bool> {
    netlink::running_programs().ok()?.get(&index).copied()
}

/// Whether a link is on the interface already. The kernel says it by refusing a second one; asking needs no right
/// that attaching does not need.
pub(in crate::xdp) fn is_taken(program: &mut Xdp, index: u32, mode: Mode) -> bool {
    match program.attach_to_if_index(index, mode.flags()) {
        Ok(id) => {
            // A link that is dropped is detached.
            drop(program.take_link(id));
            false
        }
        Err(_) => true,
    }
}

/// The number of the program that a pinned link holds.
pub(in crate::xdp) fn program_of(pin: &Path) -> Option<u32> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    Some(link.info().ok()?.program_id())
}

/// Puts the program in the place of the one that a pinned link holds, in one step. Nothing happens where it is there
/// already, and a link without an interface refuses.
pub(in crate::xdp) fn replace(program: &mut Xdp, pin: &Path) -> bool {
    let replaced = PinnedLink::from_pin(pin).and_then(|link| XdpLink::try_from(FdLink::from(link)));
    match replaced.map(|link| program.attach_to_link(link)) {
        Ok(Ok(id)) => {
            // Ours is one of two references to the link; the pin keeps the other.
            drop(program.take_link(id));
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(pin = %pin.display(), error = %chain(&error), "a pinned filter is stale");
            false
        }
        Err(error) => {
            tracing::warn!(pin = %pin.display(), error = %chain(&error), "a pinned filter is stale");
            false
        }
    }
}

fn pinned(program: &mut Xdp, id: XdpLinkId, pin: &Path) -> Result<(), String> {
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| {
        format!("{}; a kernel with BPF links for XDP is needed (5.9 or later)", chain(&error))
    })?;
    link.pin(pin).map(drop).map_err(|error| chain(&error))
}
