//! Metrics of certificates that come by ACME.

use super::{Family, counter, gauge};

pub const RENEWALS: Family = counter(
    "portcullis_acme_renewals_total",
    &["certificate", "result"],
    "Attempts to get a certificate by ACME, by their outcome.",
);
pub const LAST_RENEWAL: Family = gauge(
    "portcullis_acme_last_renewal_timestamp_seconds",
    &["certificate"],
    "When the last certificate came by ACME since the daemon started, in seconds since 1970.",
);
pub const FAILED_ATTEMPTS: Family = gauge(
    "portcullis_acme_failed_attempts",
    &["certificate"],
    "Attempts to get a certificate by ACME that have failed since the last one that did not.",
);

pub const ALL: [Family; 3] = [FAILED_ATTEMPTS, LAST_RENEWAL, RENEWALS];
