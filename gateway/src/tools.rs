//! What operators look around with from this machine: echoes, the way to a server, its TLS, the journal, packets, and
//! all of it in one file. Each is bounded in time and size; who may use it is for the control socket to say.

pub(crate) mod probe;
pub(crate) mod tls;
