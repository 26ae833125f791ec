//! Certificates by name: requested, taken in, shown, given out without their keys.

use std::time::{Duration, SystemTime};

use super::{Outcome, Services, access, reply};
use crate::certificates::{self, Asked, Given, KeyKind, Known, Link, Refusal};
use crate::config::{CertificateFiles, Config};
use crate::ctl::protocol::{
    Answer, CertificateImport, CertificateImported, CertificateLink, CertificateOrder, CertificateRow,
    Command, ErrorCode, Failure, Named, PemText,
};
use crate::log;
use crate::orders::Order;
use crate::role::Caller;

const DAY_SECONDS: i64 = 86_400;

impl Services {
    /// Does what a command about certificates or secrets says, or about who may log in.
    pub(super) async fn act_on_certificates(&self, caller: &Caller, command: Command) -> Answer {
        match command {
            Command::CertificateShow { name } => reply(self.certificate(&name)),
            Command::CertificateRequest(order) => reply(self.request_certificate(order)),
            Command::CertificateImport(order) => reply(self.import_certificate(caller, &order).await),
            Command::CertificateExport { name } => reply(self.export_certificate(name)),
            Command::CertificateDelete { name } => reply(self.delete_certificate(name)),
            Command::CertificateRenew { name } => reply(self.renew_certificate(name)),
            Command::SecretSet(order) => reply(self.set_secret(caller, &order).await),
            Command::SecretList {} => reply(Ok(self.secrets())),
            Command::SecretDelete { name } => reply(self.delete_secret(&name)),
            Command::CertificateList {} => reply(Ok(self.certificates())),
            command => access::answer(caller, command).await,
        }
    }

    fn certificates(&self) -> Vec<CertificateRow> {
        let config = self.config.load();
        let now = SystemTime::now();
        certificates::all(&config, now).into_iter().map(|known| self.row(&config, known, now)).collect()
    }

    fn certificate(&self, name: &str) -> Outcome<CertificateRow> {
        let config = self.config.load();
        let now = SystemTime::now();
        let known = certificates::find(&config, name, now).map_err(refused)?;
        Ok(self.row(&config, known, now))
    }

    fn row(&self, config: &Config, known: Known, now: SystemTime) -> CertificateRow {
        let used_by = users_of(config, &known.files);
        let state = match &known.described {
            Some(_) if !used_by.is_empty() => "used",
            Some(_) => "unused",
            None if known.requested && !known.configured => "requested",
            None => "missing",
        };
        let kept = certificates::is_kept(&config.server.state_dir, &known.files);
        let mut row = CertificateRow {
            name: known.files.name.clone(),
            state: state.to_owned(),
            source: if kept { "kept" } else { "files" }.to_owned(),
            requested: known.requested,
            used_by,
            findings: known.findings.into_iter().map(Into::into).collect(),
            ..CertificateRow::default()
        };
        let by_acme = config.acme.iter().flat_map(|acme| &acme.certificates).find(|one| one.name == row.name);
        if let Some(wanted) = by_acme {
            "acme".clone_into(&mut row.source);
            row.acme = Some(self.acme.row(wanted));
        }
        if let Some(described) = known.described {
            let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let left = described.not_after - i64::try_from(since).unwrap_or(i64::MAX);
            row.days_left = Some(left.div_euclid(DAY_SECONDS));
            row.not_before = Some(shown(described.not_before));
            row.not_after = Some(shown(described.not_after));
            row.names = described.names;
            row.key = Some(described.key);
            row.serial = Some(described.serial);
            row.sha256 = Some(described.sha256);
            row.chain = described.chain.into_iter().map(link).collect();
        }
        row
    }

    /// Orders a certificate now; how it goes is told by its row.
    fn renew_certificate(&self, name: String) -> Outcome<Named> {
        let config = self.config.load();
        let by_acme = config.acme.iter().flat_map(|acme| &acme.certificates).any(|one| one.name == name);
        if !by_acme {
            let text = format!(
                "the certificate `{name}` does not come by ACME: give it `acme_names` in the configuration, or renew it \
                 by `certificate request {name}` and `certificate import {name}`"
            );
            return Err(Failure::new(ErrorCode::Unavailable, text));
        }
        self.acme.renew_now(&name);
        Ok(Named { name })
    }

    fn request_certificate(&self, order: CertificateOrder) -> Outcome<PemText> {
        let key = order.key.as_deref().unwrap_or_else(|| KeyKind::default().as_str());
        let known = KeyKind::ALL.into_iter().find(|kind| kind.as_str() == key);
        let key = known.ok_or_else(|| Failure::bad_request("the key is ecdsa-p256 or ecdsa-p384"))?;
        let CertificateOrder { name, names, organization, country, .. } = order;
        let asked = Asked { name, names, key, organization, country };
        let pem = certificates::request(&self.config.load(), &asked).map_err(refused)?;
        Ok(PemText { name: asked.name, pem })
    }

    /// Takes a certificate in. One that is served is in force for new connections when this returns; where it cannot
    /// be served, the one before is back.
    async fn import_certificate(
        &self,
        caller: &Caller,
        order: &CertificateImport,
    ) -> Outcome<CertificateImported> {
        let config = self.config.load_full();
        let given = Given::from_pem(order.pem.expose().as_bytes(), order.force).map_err(refused)?;
        let imported = certificates::import(&config, &order.name, &given).map_err(refused)?;
        let in_force = config.certificates.iter().any(|files| files.name == order.name);
        if in_force && let Err(failure) = self.order(caller, Order::Refresh).await {
            imported.former.put_back();
            return Err(failure);
        }
        certificates::fulfilled(&config, &order.name);
        tracing::info!(certificate = order.name, in_force, "a certificate was imported");
        Ok(CertificateImported {
            certificate: self.certificate(&order.name)?,
            in_force,
            remarks: imported.remarks,
        })
    }

    fn export_certificate(&self, name: String) -> Outcome<PemText> {
        let pem = certificates::exported(&self.config.load(), &name).map_err(refused)?;
        Ok(PemText { name, pem })
    }

    fn delete_certificate(&self, name: String) -> Outcome<Named> {
        certificates::delete(&self.config.load(), &name).map_err(refused)?;
        Ok(Named { name })
    }
}

fn shown(seconds: i64) -> String {
    log::rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn link(link: Link) -> CertificateLink {
    CertificateLink { subject: link.subject, issuer: link.issuer, not_after: shown(link.not_after) }
}

/// Who shows a certificate, in the configuration's words.
fn users_of(config: &Config, files: &CertificateFiles) -> Vec<String> {
    let name = Some(&files.name);
    let mut users = Vec::new();
    for listener in &config.listeners {
        let to_servers = listener.server_tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        if listener.certificates.contains(&files.name) || to_servers == name {
            users.push(format!("listener {}", listener.name));
        }
    }
    if config.sta_server.as_ref().and_then(|server| server.certificate.as_ref()) == name {
        users.push("sta_server".to_owned());
    }
    if config.metrics.as_ref().and_then(|metrics| metrics.certificate.as_ref()) == name {
        users.push("metrics".to_owned());
    }
    users
}

fn refused(refusal: Refusal) -> Failure {
    let code = match &refusal {
        Refusal::Name | Refusal::Bad(_) => ErrorCode::BadRequest,
        Refusal::Unknown(_) => ErrorCode::NotFound,
        Refusal::Configured(_) | Refusal::Unusable(_) => ErrorCode::Refused,
        Refusal::Io { .. } => ErrorCode::Internal,
    };
    Failure::new(code, refusal.to_string())
}
