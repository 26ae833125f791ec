//! Requests and answers about candidates, commits and their history.

use serde::{Deserialize, Serialize};

use crate::config::Finding;
use crate::store::history::Entry;

/// Which text is meant: that in force unless a member says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhichText {
    /// The caller's candidate; that in force where there is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub candidate: bool,
    /// The configuration so many commits ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<usize>,
    /// Only what stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Answer to `config-text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigText {
    pub text: String,
}

/// Answer to `config-compare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// As `diff -u` shows it; empty when nothing differs.
    pub diff: String,
    /// Others have committed since the candidate began: `config-update` takes that in.
    pub stale: bool,
}

/// Answer to everything that changes a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Changes that wait for a commit.
    pub changes: usize,
    pub stale: bool,
}

/// Answer to `config-validate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Whether it could be committed.
    pub ok: bool,
    /// What is wrong with the text, with its place.
    pub problems: Vec<String>,
    /// What is the matter with what it names.
    pub findings: Vec<ShownFinding>,
    /// What a commit would change at once.
    pub live: Vec<String>,
    /// What would wait for a restart.
    pub restart: Vec<String>,
}

/// A finding, as `portcullis check` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownFinding {
    pub severity: String,
    pub subject: String,
    pub message: String,
    pub remedy: String,
}

impl From<Finding> for ShownFinding {
    fn from(finding: Finding) -> Self {
        Self {
            severity: finding.severity.as_str().to_owned(),
            subject: finding.subject,
            message: finding.message,
            remedy: finding.remedy,
        }
    }
}

/// How to commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitOrder {
    /// Taken back after that time, unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Answer to `config-commit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The number of its entry in the history.
    pub number: u64,
    pub live: Vec<String>,
    pub restart: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_seconds: Option<u64>,
}

/// One row of `config-history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// What `rollback` takes: 0 is in force.
    pub back: usize,
    pub number: u64,
    pub at: String,
    pub who: String,
    #[serde(default)]
    pub claimed_from: Option<String>,
    pub action: String,
    pub comment: String,
}

impl HistoryRow {
    #[must_use]
    pub fn new(back: usize, entry: &Entry) -> Self {
        Self {
            back,
            number: entry.number,
            at: entry.at.clone(),
            who: entry.origin.who.clone(),
            claimed_from: entry.origin.claimed_from.clone(),
            action: entry.action.clone(),
            comment: entry.comment.clone(),
        }
    }
}

/// Answer to `who-am-i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    pub user: String,
    /// `viewer`, `operator` or `administrator`.
    pub role: String,
    /// The name of the gateway's machine.
    pub host: String,
}
