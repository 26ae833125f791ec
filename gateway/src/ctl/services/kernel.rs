//! Answers about the kernel side.

use super::{Outcome, Services};
use crate::ctl::protocol::{
    ErrorCode, Failure, XdpCount, XdpFlood, XdpInterfaceStatus, XdpStatus, XdpSteering,
};
use crate::log;
use crate::xdp::XdpError;

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
}

fn failed(error: XdpError) -> Failure {
    Failure::new(ErrorCode::Internal, format!("{:#}", anyhow::Error::from(error)))
}
