use super::{Config, Finding};
pub fn check(_config: &Config) -> Vec<Finding> {
    Vec::new()
}
