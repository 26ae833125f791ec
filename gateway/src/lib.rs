//! The gateway: it does what `portcullis-core` decides.

#![forbid(unsafe_code)]
