//! Certificates: finding faults in them, and server configurations made of them.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::config::{CertificateFiles, Finding, ListenerConfig};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("certificate `{name}`: {message}")]
    Unusable { name: String, message: String },
}

pub fn inspect(_files: &CertificateFiles, _now: SystemTime) -> Vec<Finding> {
    Vec::new()
}

pub fn not_after(files: &CertificateFiles) -> Result<SystemTime, CertError> {
    Err(CertError::Unusable { name: files.name.clone(), message: "not yet".into() })
}

/// The names that the certificate is for, in lower case; a leading `*.` stays.
pub fn dns_names(files: &CertificateFiles) -> Result<Vec<String>, CertError> {
    Err(CertError::Unusable { name: files.name.clone(), message: "not yet".into() })
}

/// The process-wide maker of session tickets: stateless, its keys change every six hours.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, CertError> {
    rustls::crypto::ring::Ticketer::new()
        .map_err(|error| CertError::Unusable { name: String::new(), message: error.to_string() })
}

pub fn server_config(
    listener: &ListenerConfig,
    _certificates: &[CertificateFiles],
    _ticketer: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, CertError> {
    Err(CertError::Unusable { name: listener.name.clone(), message: "not yet".into() })
}

pub fn certified_server_config(files: &CertificateFiles) -> Result<Arc<ServerConfig>, CertError> {
    Err(CertError::Unusable { name: files.name.clone(), message: "not yet".into() })
}

/// Changes whenever one of the files is replaced or rewritten.
#[must_use]
pub fn fingerprint(_certificates: &[CertificateFiles]) -> u64 {
    0
}
