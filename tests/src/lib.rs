//! The harness of the integration tests, the demo and the measurements.
//!
//! It makes certificates, namespaces and processes, starts the real daemon with a written configuration, and takes
//! everything away again. It holds no test, and it knows the product only from outside: the configuration file, the
//! command line and the control socket.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod netns;
pub mod pki;
pub mod process;
pub mod topology;
pub mod wait;
