//! How certificates by ACME do, for metrics.

use std::time::SystemTime;

use ::metrics::counter;

use super::names::acme as names;
use super::{text, unix_seconds};

/// What is told of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub certificate: String,
    pub last_renewal: Option<SystemTime>,
    /// Attempts since then that have failed.
    pub failures: u32,
}

/// An attempt to get a certificate is over.
pub fn renewal(certificate: &str, issued: bool) {
    let result = if issued { "issued" } else { "failed" };
    counter!(names::RENEWALS.name, "certificate" => certificate.to_owned(), "result" => result).increment(1);
}

pub(super) fn render(facts: &[Fact], writer: &mut text::Writer) {
    let of = |fact: &Fact| vec![fact.certificate.clone()];
    let last = facts.iter().filter_map(|fact| Some((of(fact), unix_seconds(fact.last_renewal?))));
    writer.family(names::LAST_RENEWAL, last);
    writer.family(names::FAILED_ATTEMPTS, facts.iter().map(|fact| (of(fact), fact.failures)));
}
