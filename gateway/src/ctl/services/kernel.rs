//! Answers about the kernel side.

use super::traffic::{flow_use, map_use};
use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, XdpCount, XdpEventUse, XdpInterfaceStatus, XdpStatus};
use crate::xdp::XdpError;

impl Services {
    pub(super) fn kernel_status(&self) -> Outcome<XdpStatus> {
        let counts = self.kernel.counts().map_err(failed)?;
        let interfaces = self.kernel.interfaces().into_iter().map(|interface| XdpInterfaceStatus {
            role: interface.role.as_str().to_owned(),
            mode: interface.mode.as_str().to_owned(),
            attached: interface.is_attached(),
            condition: interface.condition.to_string(),
            repairs: interface.repairs,
            name: interface.name,
        });
        Ok(XdpStatus {
            state: self.kernel.to_string(),
            interfaces: interfaces.collect(),
            rules: self.kernel.rules(),
            flows: self.kernel.flows().usage().map(flow_use),
            maps: self.kernel.map_use().map_err(failed)?.into_iter().map(map_use).collect(),
            events: self
                .kernel
                .event_counts()
                .map_err(failed)?
                .map(|(kept, lost)| XdpEventUse { kept, lost }),
            bans: self.kernel.bans().map_err(failed)?.map_or(0, |bans| bans.len()),
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

pub(super) fn failed(error: XdpError) -> Failure {
    Failure::new(ErrorCode::Internal, format!("{:#}", anyhow::Error::from(error)))
}

pub(super) fn no_kernel() -> Failure {
    Failure::new(ErrorCode::Unavailable, "no interface is filtered; [xdp] in the configuration says which")
}
