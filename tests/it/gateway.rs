//! The whole gateway from outside: the real daemon with a written configuration, real sockets, real programs.
//!
//! Each test starts a daemon of its own on free ports of loopback, so all of them run side by side. What cannot run
//! on a machine says so through `portcullis_tests::skip`.
#![forbid(unsafe_code)]

// `cfg(test)` is always true here; it tells clippy that helpers, too, are test code.
#[cfg(test)]
mod gateway {
    mod acme;
    mod bans;
    mod certificates;
    mod cgp;
    mod configure;
    mod connect;
    mod connect_command;
    mod control;
    mod drain;
    mod engines;
    mod fault_backend;
    mod fault_machine;
    mod fault_names;
    mod fault_sta;
    mod fixture;
    mod forward;
    mod high_availability;
    mod hostile;
    mod http;
    mod limits;
    mod monitoring;
    mod network;
    mod openssh;
    mod prometheus;
    mod proxies;
    mod rdp;
    mod records;
    mod relay;
    mod reload;
    mod server_tls;
    mod shell;
    mod socks;
    mod support_shell;
    mod syslog;
    mod tickets;
    mod tls;
    mod tools;
    mod unknown;
    mod websocket;
}
