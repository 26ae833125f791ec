//! TLS towards servers: sessions with `openssl s_server` and with a rustls server, on each engine and with each record
//! layer, and servers that are not believed.

mod ends;
mod farm;
mod refusals;
mod sessions;
