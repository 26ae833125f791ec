//! Requests and answers of the control socket, version 1.
//!
//! One JSON object per line in each direction. A request holds exactly the members named here, so that a typing
//! error is an error; a reader of answers ignores members that it does not know, so that version 1 can grow.
//! The document is `gateway/docs/CONTROL.md`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::role::plain_claim;

/// The version that is spoken here.
pub const VERSION: u64 = 1;
/// Longest request line, newline included.
pub const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// Longest answer that a client accepts: a page of sessions is about 5 MiB.
pub const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most rows of one `sessions-list` answer; ask again with `after` for more.
pub const SESSIONS_PER_ANSWER: usize = 10_000;
/// Bans in one answer.
pub const BANS_PER_ANSWER: usize = 10_000;

mod access;
mod bans;
mod capture;
mod certificates;
mod config;
mod forward;
mod high_availability;
mod kernel;
mod least;
mod log;
mod machine;
mod secrets;
mod sessions;
mod status;
mod support;
mod tickets;
mod tools;
mod traffic;
mod update;

pub use crate::acme::AcmeRow;
pub use crate::answer::{Answer, ErrorCode, Failure};
pub use crate::forward::{ForwardServer, ForwardStatus, KernelTotals};
pub use crate::secret_text::SecretText;
pub use crate::tools::capture::{CaptureOrder, CaptureRow};
pub use crate::tools::journal::{LogLine, LogPage};
pub use crate::tools::probe::{Probe, TraceMethod};
pub use crate::tools::tls::ShownCertificate;
pub use crate::xdp::judge::{Judgement, Packet};

pub use access::{AccessChange, AccessChanged, AccessKey, AccessOrder, AccessRow, AccessUser};
pub use bans::{BanFilter, BanOrder, BanRow, Cleared};
pub use capture::{CAPTURE_PACKETS_MAX, CAPTURE_SECONDS_MAX, CapturePart};
pub use certificates::{
    CertificateImport, CertificateImported, CertificateLink, CertificateOrder, CertificateRow, Named, PemText,
};
pub use config::{
    Candidate, CommitOrder, Committed, Compared, ConfigText, HistoryRow, Me, ShownFinding, Validated,
    WhichText,
};
pub use forward::{ForwardFlow, ForwardFlowFilter, ForwardFlowPage, ServerRef};
pub use high_availability::{HaAddress, HaStatus, PushOrder, Pushed};
pub use kernel::{
    Confirmed, XdpCount, XdpEventUse, XdpFlood, XdpFlowUse, XdpInterfaceStatus, XdpMap, XdpRules, XdpStatus,
    XdpSteering,
};
pub use log::{LOG_LINES_MAX, LogLevel, LogQuery};
pub use machine::{MachineAction, MachineOrder};
pub use secrets::{SecretOrder, SecretPage, SecretRow};
pub use sessions::{KillWhich, Killed, SessionFilter};
pub use status::{
    AuthorityStatus, ConfigStatus, Drained, ListenerStatus, ReloadStatus, StaSummary, Status, Use,
};
pub use support::{Check, CheckState, Health, MetricsText, ShellGranted, ShellOrder, SupportBundle};
pub use tickets::{Issued, Redeemed, TicketOrder, TicketText};
pub use tools::{
    ECHO_MAX_BYTES, ECHOES_MAX, Family, HOPS_MAX, Hop, PROBES_MAX, PingOrder, Pinged, Resolved, TlsTestOrder,
    TlsTested, TraceOrder, Traced,
};
pub use traffic::{FlowFilter, FlowOrder, XdpEvent, XdpEventPage, XdpFlow, XdpFlowPage};
pub use update::{UpdateAsked, UpdateJob, UpdateOrder, UpdateSource, UpdateState, UpdateStatus};

/// What is asked. `{"v":1,"cmd":"…"}` plus the members of the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// [`Status`]
    Status {},
    /// A list of [`SessionRow`], oldest first, at most [`SESSIONS_PER_ANSWER`].
    SessionsList(SessionFilter),
    /// [`SessionRow`] of a live or lately ended session.
    SessionShow { id: String },
    /// [`Killed`]. Exactly one member says which.
    SessionKill(KillWhich),
    /// A list of STA states as the pool reports them.
    StaList {},
    /// The state of one STA after asking it now.
    StaTest { name: String },
    /// [`Issued`]
    TicketIssue(TicketOrder),
    /// [`Redeemed`]. Counts as a redemption: a ticket that serves once is used up.
    TicketRedeem { ticket: TicketText },
    /// The effective configuration without secrets.
    ConfigShow {},
    /// [`ConfigText`]
    ConfigText(WhichText),
    /// [`Compared`]: the caller's candidate, or an earlier configuration, with the one in force.
    ConfigCompare {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back: Option<usize>,
    },
    /// [`Candidate`]
    ConfigSet { path: String, value: String },
    /// [`Candidate`]
    ConfigDelete { path: String },
    /// [`Candidate`]. A whole text, in pieces where it is long: all but the last say `more`.
    ConfigLoad {
        text: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// [`Candidate`]: it becomes the configuration so many commits ago.
    ConfigRollback { back: usize },
    /// [`Candidate`]: its changes are made again on top of what others have committed.
    ConfigUpdate {},
    /// [`Candidate`]: there is nothing to commit any more.
    ConfigDiscard {},
    /// [`Candidate`]: kept under a name.
    ConfigSave { name: String },
    /// [`Candidate`]: it becomes one that was kept.
    ConfigRestore { name: String },
    /// Names of candidates that were kept.
    ConfigSaved {},
    /// [`Validated`]
    ConfigValidate {},
    /// [`Committed`]
    ConfigCommit(CommitOrder),
    /// [`Pushed`]: the configuration in force goes to the other of two appliances.
    ConfigPush(PushOrder),
    /// A list of [`HistoryRow`], newest first.
    ConfigHistory {},
    /// [`Me`]
    WhoAmI {},
    /// A list of [`audit::Record`](crate::audit::Record), newest last.
    AuditList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// [`Reloaded`]
    Reload {},
    /// [`Confirmed`]: what was committed or reloaded on trial stays in force.
    ReloadConfirm {},
    /// [`MachineOrder`], once the system has been told.
    Machine(MachineOrder),
    /// [`UpdateStatus`]
    UpdateStatus {},
    /// [`UpdateAsked`], once the system has been told.
    Update(UpdateOrder),
    /// [`Resolved`]
    Resolve { name: String },
    /// [`Pinged`]
    Ping(PingOrder),
    /// [`Traced`]
    Trace(TraceOrder),
    /// [`TlsTested`]
    TlsTest(TlsTestOrder),
    /// [`LogPage`]
    LogRead(LogQuery),
    /// [`CaptureRow`] of the one that has begun.
    CaptureStart(CaptureOrder),
    /// [`CaptureRow`] of the one that ends: of that name, or the one that runs.
    CaptureStop {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A list of [`CaptureRow`], oldest first.
    CaptureList {},
    /// [`CapturePart`]
    CaptureRead { name: String, offset: u64 },
    /// [`CaptureRow`] of the one that is gone.
    CaptureDelete { name: String },
    /// [`Health`]
    Health {},
    /// [`SupportBundle`]
    SupportBundle {},
    /// [`ShellGranted`]: a Unix shell may be opened, soon and once.
    SupportShell(ShellOrder),
    /// [`HaStatus`]
    HighAvailability {},
    /// [`MetricsText`]
    Metrics {},
    /// [`XdpStatus`]
    XdpStatus {},
    /// [`XdpRules`]
    XdpRules {},
    /// [`Judgement`]
    XdpTest(Packet),
    /// A list of [`BanRow`], by prefix, at most [`BANS_PER_ANSWER`].
    #[serde(alias = "xdp-bans")]
    BansList(BanFilter),
    /// [`BanRow`]. A ban of the same prefix is replaced.
    #[serde(alias = "xdp-ban")]
    BanAdd(BanOrder),
    /// [`BanRow`], as it was.
    #[serde(alias = "xdp-unban")]
    BanRemove { prefix: String },
    /// [`Cleared`]
    BansClear {
        /// Only those that the gateway gave by itself.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        automatic: bool,
    },
    /// A list of [`ForwardStatus`], by the name of the listener.
    ForwardStatus {},
    /// [`ForwardFlowPage`]
    ForwardFlows(ForwardFlowFilter),
    /// [`ServerRef`]s that take no new flows from now on, until the daemon ends.
    ForwardDrain(ServerRef),
    /// [`ServerRef`]s that take new flows again.
    ForwardUndrain(ServerRef),
    /// [`Drained`]
    GatewayDrain { drained: bool },
    /// [`XdpFlowPage`]
    XdpFlows(FlowFilter),
    /// [`XdpEventPage`]. With `after` what came since, else the last ones.
    XdpEvents {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// A list of [`CertificateRow`], by name.
    CertificateList {},
    /// [`CertificateRow`]
    CertificateShow { name: String },
    /// [`PemText`]: a request with a key that is made here.
    CertificateRequest(CertificateOrder),
    /// [`CertificateImported`]
    CertificateImport(CertificateImport),
    /// [`PemText`]: the certificates without their key.
    CertificateExport { name: String },
    /// [`Named`]
    CertificateDelete { name: String },
    /// [`Named`]: it is ordered now, of those that come by ACME.
    CertificateRenew { name: String },
    /// [`Named`]. One that the configuration names is in force at once.
    SecretSet(SecretOrder),
    /// [`SecretPage`]
    SecretList {},
    /// [`Named`]
    SecretDelete { name: String },
    /// A list of [`AccessRow`]: who may log in to the appliance.
    AccessList {},
    /// [`AccessChanged`], once the system has done it.
    AccessChange(AccessOrder),
    /// [`LogLevel`]; with `level` sets it first, until the next reload or restart.
    LogLevel {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
}

/// A command with its version, and what is claimed beside it: one line.
#[derive(Serialize)]
struct Versioned<'a> {
    v: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_from: Option<&'a str>,
    #[serde(flatten)]
    command: &'a Command,
}

/// A command and what came beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub command: Command,
    /// Where the caller says that an SSH session came from.
    pub claimed_from: Option<String>,
}

impl Command {
    /// The request line, newline included.
    #[must_use]
    pub fn to_line(&self) -> Zeroizing<Vec<u8>> {
        self.to_line_from(None)
    }

    /// The same with a word about where the caller came from.
    #[must_use]
    pub fn to_line_from(&self, claimed_from: Option<&str>) -> Zeroizing<Vec<u8>> {
        let versioned = Versioned { v: VERSION, claimed_from, command: self };
        // Nothing in a command can fail to serialise: all its keys are strings.
        let mut line = serde_json::to_vec(&versioned).unwrap_or_default();
        line.push(b'\n');
        Zeroizing::new(line)
    }

    /// Reads one request line, with or without its newline.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] with what is wrong.
    pub fn from_line(line: &[u8]) -> Result<Self, Failure> {
        Ok(Request::from_line(line)?.command)
    }
}

impl Request {
    /// Reads one request line, with or without its newline.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] with what is wrong.
    pub fn from_line(line: &[u8]) -> Result<Self, Failure> {
        let bad = |error: serde_json::Error| Failure::bad_request(format!("not a request: {error}"));
        let mut members: serde_json::Map<String, Value> = serde_json::from_slice(line).map_err(bad)?;
        match members.remove("v").as_ref().map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(_) => {
                return Err(Failure::bad_request(format!(
                    "this version of the protocol is not spoken here; use \"v\":{VERSION}"
                )));
            }
            None => return Err(Failure::bad_request(format!("member `v` is missing; use \"v\":{VERSION}"))),
        }
        let claimed_from = match members.remove("claimed_from") {
            None => None,
            Some(Value::String(claim)) => plain_claim(&claim),
            Some(_) => return Err(Failure::bad_request("member `claimed_from` is no text")),
        };
        let command = serde_json::from_value(Value::Object(members)).map_err(bad)?;
        Ok(Self { command, claimed_from })
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// 16 hexadecimal digits.
    pub id: String,
    /// `connecting`, `established` or `ended`.
    pub state: String,
    pub listener: String,
    pub protocol: String,
    /// The client's address and port.
    pub source: String,
    pub user: Option<String>,
    pub application: Option<String>,
    /// As the ticket or the request names it.
    pub target: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub duration_ms: u64,
    /// Client to server.
    pub bytes_up: u64,
    /// Server to client.
    pub bytes_down: u64,
    /// Why it ended; absent while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One ticket authority, as `sta-list` and `sta-test` answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StaRow {
    pub name: String,
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    #[serde(default)]
    pub authority_id: Option<String>,
    #[serde(default)]
    pub last_error: Option<String>,
    #[serde(default)]
    pub last_check_age_ms: Option<u64>,
    #[serde(default)]
    pub latency_ms: Option<f64>,
    #[serde(default)]
    pub requests: u64,
    #[serde(default)]
    pub failures: u64,
}

/// Answer to `reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Changes that are in force now.
    pub live: Vec<String>,
    /// Changes that wait for a restart.
    pub restart: Vec<String>,
    /// The changed policy of the kernel side is taken back after that time, unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<u64>,
}

#[cfg(test)]
mod tests;
