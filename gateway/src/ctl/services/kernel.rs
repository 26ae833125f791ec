//! Answers about the kernel side.

use std::time::Instant;

use portcullis_ebpf_common::tables::Role;

use super::traffic::{flow_use, map_use};
use super::{Outcome, Services};
use crate::config::XdpConfig;
use crate::ctl::protocol::{
    Confirmed, ErrorCode, Failure, Judgement, Packet, XdpCount, XdpEventUse, XdpFlood, XdpInterfaceStatus,
    XdpRules, XdpStatus, XdpSteering,
};
use crate::log;
use crate::sync::lock;
use crate::xdp::judge::judge;
use crate::xdp::{Vlan, XdpError};

impl Services {
    pub(super) fn kernel_status(&self) -> Outcome<XdpStatus> {
        let coming = self.kernel.counts().map_err(failed)?.into_iter().map(|count| ("in", count));
        let leaving = self.kernel.counts_out().map_err(failed)?.into_iter().map(|count| ("out", count));
        let (running, outgoing) = (self.kernel.running(), self.kernel.outgoing());
        let interfaces = self.kernel.interfaces().into_iter().map(|interface| XdpInterfaceStatus {
            role: interface.role.map_or("none", Role::as_str).to_owned(),
            vlan_of: interface.vlan.as_ref().map(|vlan| vlan.trunk.clone()),
            vlan: interface.vlan.as_ref().map(Vlan::numbers).unwrap_or_default(),
            mode: interface.mode.as_str().to_owned(),
            mode_reason: interface.mode_reason.clone(),
            attached: interface.is_attached(),
            condition: interface.condition.to_string(),
            repairs: interface.repairs,
            name: interface.name,
        });
        Ok(XdpStatus {
            state: self.kernel.to_string(),
            interfaces: interfaces.collect(),
            rules: self.kernel.rules(),
            bogons: running.as_ref().map_or("", |xdp| xdp.bogons.as_str()).to_owned(),
            egress: running.as_ref().map_or("", egress).to_owned(),
            egress_condition: outgoing.condition.map(|condition| condition.to_string()),
            egress_repairs: outgoing.repairs,
            reverts_in_seconds: self.reverts_in_seconds(),
            flows: self.kernel.flows().usage().map(flow_use),
            maps: self.kernel.map_use().map_err(failed)?.into_iter().map(map_use).collect(),
            events: self
                .kernel
                .event_counts()
                .map_err(failed)?
                .map(|(kept, lost)| XdpEventUse { kept, lost }),
            bans: self.kernel.bans().map_err(failed)?.map_or(0, |bans| bans.len()),
            flood: self.kernel.flood().map(|state| XdpFlood {
                pressure_since: state.pressure_since.map(log::rfc3339),
                cookies: state.cookies,
            }),
            steering: self
                .kernel
                .steering()
                .map(|(on, reason)| XdpSteering { on, reason: reason.to_string() }),
            packets: coming
                .chain(leaving)
                .map(|(direction, (interface, cause, packets))| XdpCount {
                    interface,
                    direction: direction.to_owned(),
                    verdict: cause.verdict().label().to_owned(),
                    reason: cause.label().to_owned(),
                    packets,
                    about: cause.about().to_owned(),
                })
                .collect(),
        })
    }

    pub(super) fn kernel_rules(&self) -> Outcome<XdpRules> {
        let running = self.kernel.running().ok_or_else(no_kernel)?;
        Ok(XdpRules {
            bogons: running.bogons.as_str().to_owned(),
            egress: egress(&running).to_owned(),
            rules: self.kernel.rows(),
        })
    }

    pub(super) fn judge(&self, packet: &Packet) -> Outcome<Judgement> {
        let running = self.kernel.running().ok_or_else(no_kernel)?;
        let banned = self.bans.refuses(packet.source.to_canonical());
        judge(&self.config.load(), &running, packet, banned).map_err(Failure::bad_request)
    }

    pub(super) fn reverts_in_seconds(&self) -> Option<u64> {
        let left = self.reverts_at()?.saturating_duration_since(Instant::now());
        Some(left.as_secs())
    }

    pub(super) fn confirm_reload(&self) -> Outcome<Confirmed> {
        let policy = self.kernel.confirm();
        let commit = lock(&self.store).confirm();
        if !policy && !commit {
            let text = "nothing waits for a confirmation; perhaps it has been taken back";
            return Err(Failure::new(ErrorCode::NotFound, text));
        }
        tracing::info!(policy, commit, "what was on trial was confirmed by an operator");
        Ok(Confirmed { confirmed: true })
    }
}

fn egress(xdp: &XdpConfig) -> &'static str {
    if xdp.egress_closed { "closed" } else { "open" }
}

pub(super) fn failed(error: XdpError) -> Failure {
    Failure::new(ErrorCode::Internal, format!("{:#}", anyhow::Error::from(error)))
}

pub(super) fn no_kernel() -> Failure {
    Failure::new(ErrorCode::Unavailable, "no interface is filtered; [xdp] in the configuration says which")
}
