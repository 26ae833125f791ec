//! The harness of the integration tests, the demo and the measurements.
//!
//! It makes certificates, namespaces and processes, starts the real daemon with a written configuration, and takes
//! everything away again. It holds no test, and it knows the product only from outside: the configuration file, the
//! command line and the control socket; only the record layer's oracle calls into it. Clients and doubles write their protocols by hand.
#![forbid(unsafe_code)]

pub mod backend;
mod cards;
pub mod client;
pub mod dns_double;
pub mod filtered;
pub mod gateway;
pub mod netns;
pub mod oracles;
pub mod pair;
pub mod pki;
pub mod process;
pub mod prometheus;
pub mod skip;
pub mod speak;
pub mod sta_double;
pub mod terminal;
pub mod topology;
pub mod twins;
pub mod wait;
pub mod websocket;
