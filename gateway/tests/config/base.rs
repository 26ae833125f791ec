//! Configurations that the tests build on.

use std::path::Path;

use portcullis::config::{Config, ConfigError, parse};

/// What the cases below build on; its names can be referred to.
pub(crate) const BASE: &str = r#"
[[certificate]]
name = "main"
chain = "chain.pem"
key = "key.pem"
[[users]]
name = "people"
file = "users"
[[sta]]
name = "sta1"
url = "https://ddc1.example.com"
"#;

pub(crate) const GATEWAY: &str = r#"
[[listener]]
name = "gw"
kind = "gateway"
listen = ["192.0.2.1:443"]
certificates = ["main"]
stas = ["sta1"]
"#;

pub(crate) fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/portcullis/portcullis.toml"))
}

pub(crate) fn config(text: &str) -> Config {
    read(&format!("{BASE}{text}")).unwrap()
}
