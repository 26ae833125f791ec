//! What operators look around with from this machine: the machine and its interfaces, echoes, the way to a server, its
//! TLS, the journal, packets, and all of it in one file. Each is bounded in time and size; who may use it is for the control socket to say.

pub(crate) mod bundle;
pub mod capture;
pub(crate) mod interfaces;
pub(crate) mod journal;
pub(crate) mod log_file;
pub(crate) mod probe;
pub(crate) mod program;
pub(crate) mod redact;
pub(crate) mod system;
pub(crate) mod tls;
