//! Everything about this gateway that support asks for, in one file without secrets.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Outcome, Services};
use crate::config::Config;
use crate::ctl::protocol::{ErrorCode, Failure, LogQuery, Status, SupportBundle};
use crate::log::rfc3339;
use crate::role::Caller;
use crate::tls::pem;
use crate::tools::bundle::Bundle;
use crate::tools::{interfaces, system};
use crate::tools::{program, tls};

/// Lines of the gateway's log, and of the system's that are warnings or worse.
const OWN_LINES: usize = 5000;
const SYSTEM_LINES: usize = 2000;
const AUDIT_LINES: usize = 500;
/// What a program of the system may print.
const PRINTED_MAX: u64 = 1024 * 1024;
/// In base64 and with the rest it must fit into one answer.
const PACKED_MAX: usize = 11 * 1024 * 1024;
/// Who knows what the daemon does not, with the name of the file that it fills.
const PROGRAMS: [(&str, &str, &str); 8] = [
    ("addresses.json", "/usr/sbin/ip", "-json address show"),
    ("links.json", "/usr/sbin/ip", "-json -stats link show"),
    ("routes-4.json", "/usr/sbin/ip", "-json -4 route show table all"),
    ("routes-6.json", "/usr/sbin/ip", "-json -6 route show table all"),
    ("rules.json", "/usr/sbin/ip", "-json rule show"),
    ("neighbours.json", "/usr/sbin/ip", "-json neighbour show"),
    ("units.txt", "/usr/bin/systemctl", "--no-pager --plain --full --all list-units"),
    ("unit.txt", "/usr/bin/systemctl", "--no-pager --full --lines=0 status portcullis.service"),
];

impl Services {
    pub(super) async fn support_bundle(&self, caller: &Caller) -> Outcome<SupportBundle> {
        let _place = self.bench.place()?;
        let now = SystemTime::now();
        let config = self.config.load_full();
        let mut bundle = Bundle::new(secrets(&config));
        self.own_facts(&mut bundle, &config).await;
        self.logs(&mut bundle).await;
        for (name, path, arguments) in PROGRAMS {
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            match program::run(path, &arguments, PRINTED_MAX).await {
                Ok(printed) => {
                    bundle.text(name, &String::from_utf8_lossy(&printed.text));
                    if printed.cut {
                        bundle.missing(name, "there was more");
                    }
                }
                Err(why) => bundle.missing(name, &why),
            }
        }
        let manifest = json!({
            "made": rfc3339(now),
            "for": caller.name,
            "files": bundle.names(),
            "missing": bundle.what_is_missing(),
            "about": "tickets, keys, passwords, cookies and credentials are taken out; names of users and addresses are not",
        });
        bundle.json("manifest.json", manifest);
        let stamp: String = rfc3339(now).chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        let name = format!("portcullis-support-{stamp}");
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (files, missing) = (bundle.names(), bundle.what_is_missing());
        let directory = name.clone();
        let packed = super::tools::on_a_thread(move || {
            bundle
                .pack(&directory, seconds)
                .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
        });
        let packed = packed.await?;
        if packed.len() > PACKED_MAX {
            let text = format!("the bundle has {} bytes, more than an answer holds", packed.len());
            return Err(Failure::new(ErrorCode::Internal, text));
        }
        let sha256 = digest(&SHA256, &packed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(SupportBundle {
            name: format!("{name}.tar.gz"),
            data: STANDARD.encode(&packed),
            sha256,
            files,
            missing,
        })
    }

    async fn own_facts(&self, bundle: &mut Bundle, config: &Config) {
        let status: Status = self.status();
        let mut version =
            json!({"version": status.version, "build": crate::version::LONG, "ebpf": status.ebpf});
        if let (Some(members), Ok(Value::Object(system))) =
            (version.as_object_mut(), serde_json::to_value(machine_facts()))
        {
            members.extend(system);
        }
        bundle.json("version.json", version);
        put(bundle, "status.json", &status);
        match self.health().await {
            Ok(health) => put(bundle, "health.json", &health),
            Err(failure) => bundle.missing("health.json", &failure.message),
        }
        bundle.json("configuration.json", config.to_json());
        put(bundle, "history.json", &self.history());
        put(bundle, "ticket-authorities.json", &self.pool.status());
        put(bundle, "forward.json", &self.forward_status());
        bundle.json("certificates.json", certificates(config));
        match self.kernel_status() {
            Ok(status) => put(bundle, "xdp.json", &status),
            Err(failure) => bundle.missing("xdp.json", &failure.message),
        }
        match self.kernel_rules() {
            Ok(rules) => put(bundle, "ports.json", &rules),
            Err(failure) => bundle.missing("ports.json", &failure.message),
        }
        bundle.text("metrics.txt", &self.render_metrics());
        let audit = self.audit.newest(AUDIT_LINES);
        bundle.lines("audit.jsonl", audit.iter().filter_map(|record| serde_json::to_value(record).ok()));
    }

    async fn logs(&self, bundle: &mut Bundle) {
        let own = LogQuery { lines: Some(OWN_LINES), ..LogQuery::default() };
        let system = LogQuery {
            lines: Some(SYSTEM_LINES),
            all: true,
            level: Some("warn".to_owned()),
            ..LogQuery::default()
        };
        for (name, query) in [("log.jsonl", own), ("system-log.jsonl", system)] {
            match self.log_page(query).await {
                Ok(page) => {
                    bundle.lines(name, page.lines.iter().filter_map(|line| serde_json::to_value(line).ok()));
                }
                Err(failure) => bundle.missing(name, &failure.message),
            }
        }
    }
}

fn put(bundle: &mut Bundle, name: &str, value: &impl Serialize) {
    match serde_json::to_value(value) {
        Ok(value) => bundle.json(name, value),
        Err(error) => bundle.missing(name, &error.to_string()),
    }
}

/// What certificates say of themselves; keys are not looked at.
fn certificates(config: &Config) -> Value {
    let one = |files: &crate::config::CertificateFiles| match pem::chain(&files.chain) {
        Ok(chain) => {
            let chain: Vec<_> = chain.iter().map(|der| tls::shown(der, SystemTime::now())).collect();
            json!({"name": files.name, "chain": chain})
        }
        Err(error) => json!({"name": files.name, "problem": error.to_string()}),
    };
    config.certificates.iter().map(one).collect()
}

/// Secrets that the daemon itself knows, wherever they may have got to.
fn secrets(config: &Config) -> Vec<String> {
    let keys = config.stas.iter().filter_map(|sta| sta.security_key.as_ref());
    let keys = keys.chain(config.sta_server.as_ref().and_then(|server| server.security_key.as_ref()));
    let mut secrets: Vec<String> =
        keys.flat_map(|key| &key.values).map(|value| value.as_str().to_owned()).collect();
    let token = config.metrics.as_ref().and_then(|metrics| metrics.token.as_ref());
    secrets.extend(token.map(|token| token.expose().to_owned()));
    secrets
}
/// What the kernel shows to everybody of the machine and its interfaces.
fn machine_facts() -> Value {
    json!({"system": system::look(), "interfaces": interfaces::look().unwrap_or_default()})
}
