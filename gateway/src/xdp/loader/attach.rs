//! Puts the program onto an interface: in the place of a pinned one, or anew.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode};

use super::error::{XdpError, chain};
use super::pins::{pin_path, remove};
use crate::config::{XdpConfig, XdpInterface, XdpMode};

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

pub(super) fn enforce(
    program: &mut Xdp,
    xdp: &XdpConfig,
    interface: &XdpInterface,
    index: u32,
) -> Result<(Mode, PathBuf), XdpError> {
    let modes: &[Mode] = match xdp.mode {
        XdpMode::Auto => &Mode::ALL,
        XdpMode::Driver => &[Mode::Driver],
        XdpMode::Generic => &[Mode::Generic],
    };
    for mode in Mode::ALL {
        let pin = pin_path(&xdp.pins, mode, &interface.name);
        if !pin.exists() {
            continue;
        }
        if modes.contains(&mode) && replace(program, &pin) {
            return Ok((mode, pin));
        }
        // Another mode is wanted, or the link's interface has gone; its name may be another interface's now.
        remove(&pin)?;
    }
    let mut refused = None;
    for mode in modes {
        match program.attach_to_if_index(index, mode.flags()) {
            Ok(id) => {
                if let Some(error) = &refused {
                    tracing::warn!(
                        interface = interface.name,
                        error = %chain(error),
                        "the driver cannot run the filter; it runs behind the driver, which costs more"
                    );
                }
                let pin = pin_path(&xdp.pins, *mode, &interface.name);
                return pinned(program, id, &pin)
                    .map(|()| (*mode, pin))
                    .map_err(|reason| XdpError::Link { interface: interface.name.clone(), reason });
            }
            Err(error) => refused = Some(error),
        }
    }
    let source = refused.unwrap_or(ProgramError::NotLoaded);
    Err(XdpError::Attach { interface: interface.name.clone(), source })
}

/// Puts the program in the place of the one that a pinned link holds, in one step.
fn replace(program: &mut Xdp, pin: &Path) -> bool {
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
