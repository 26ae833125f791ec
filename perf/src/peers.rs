//! The contenders' configurations, and how each is started: bound to one CPU, ready for connections.

pub(crate) mod haproxy;
pub(crate) mod portcullis;
