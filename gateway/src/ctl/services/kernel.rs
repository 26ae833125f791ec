//! Answers about the kernel side.

use std::time::Duration;

use super::{Outcome, Services, prefix};
use crate::ctl::protocol::{
    ErrorCode, Failure, XdpBan, XdpCount, XdpFlood, XdpInterfaceStatus, XdpStatus, XdpSteering,
};
use crate::log;
use crate::xdp::{BanRow, XdpError};

/// Longest ban: a longer one is a rule of a firewall, and should be written down.
const BAN_MAX: Duration = Duration::from_hours(24 * 365);

impl Services {
    pub(super) fn kernel_status(&self) -> Outcome<XdpStatus> {
        let counts = self.kernel.counts().map_err(failed)?;
        let interfaces = self.kernel.interfaces().iter().map(|interface| XdpInterfaceStatus {
            name: interface.name.clone(),
            role: interface.role.as_str().to_owned(),
            mode: interface.mode.as_str().to_owned(),
            attached: interface.is_attached(),
        });
        Ok(XdpStatus {
            state: self.kernel.to_string(),
            interfaces: interfaces.collect(),
            rules: self.kernel.rules(),
            bans: self.kernel.bans().map_err(failed)?.map_or(0, |bans| bans.len()),
            flood: self.kernel.flood().map(|state| XdpFlood {
                pressure_since: state.pressure_since.map(log::rfc3339),
                cookies: state.cookies,
            }),
            steering: self
                .kernel
                .steering()
                .map(|(on, reason)| XdpSteering { on, reason: reason.to_string() }),
            packets: counts
                .into_iter()
                .map(|(interface, cause, packets)| XdpCount {
                    interface,
                    verdict: cause.verdict().label().to_owned(),
                    reason: cause.label().to_owned(),
                    packets,
                    about: cause.about().to_owned(),
                })
                .collect(),
        })
    }

    pub(super) fn bans(&self) -> Outcome<Vec<XdpBan>> {
        let bans = self.kernel.bans().map_err(failed)?.ok_or_else(no_kernel)?;
        let row = |ban: BanRow| XdpBan { prefix: ban.prefix.to_string(), seconds_left: ban.left.as_secs() };
        Ok(bans.into_iter().map(row).collect())
    }

    pub(super) fn ban(&self, text: &str, seconds: u64) -> Outcome<XdpBan> {
        let prefix = prefix(text)?.trunc();
        let time = Duration::from_secs(seconds);
        if prefix.prefix_len() == 0 {
            return Err(Failure::bad_request("a ban of everybody is none; detach the interface instead"));
        }
        if time.is_zero() || time > BAN_MAX {
            return Err(Failure::bad_request("a ban lasts from 1 second to 365 days"));
        }
        self.kernel.ban(prefix, time).map_err(failed)?.ok_or_else(no_kernel)?;
        tracing::info!(%prefix, seconds, "a prefix was banned by an operator");
        Ok(XdpBan { prefix: prefix.to_string(), seconds_left: seconds })
    }

    pub(super) fn unban(&self, text: &str) -> Outcome<XdpBan> {
        let prefix = prefix(text)?.trunc();
        if !self.kernel.unban(prefix).map_err(failed)?.ok_or_else(no_kernel)? {
            return Err(Failure::new(ErrorCode::NotFound, format!("{prefix} is not banned")));
        }
        tracing::info!(%prefix, "a ban was lifted by an operator");
        Ok(XdpBan { prefix: prefix.to_string(), seconds_left: 0 })
    }
}

fn failed(error: XdpError) -> Failure {
    Failure::new(ErrorCode::Internal, format!("{:#}", anyhow::Error::from(error)))
}

fn no_kernel() -> Failure {
    Failure::new(ErrorCode::Unavailable, "no interface is filtered; [xdp] in the configuration says which")
}
