#![forbid(unsafe_code)]

pub mod oracles;
