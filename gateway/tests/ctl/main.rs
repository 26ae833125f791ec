//! The control socket's server: its bounds, its versions, and who may use it.

#[cfg(test)]
mod server;
