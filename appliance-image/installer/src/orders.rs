//! What credentials say in place of a person.
//!
//! | credential | says |
//! |---|---|
//! | `install.disk` | which disk: `vda`, a path below `/dev`, a serial number, or `only` for the only one there is |
//! | `install.erase` | `yes`: the disk is erased without asking, whatever it holds |
//! | `install.then` | `reboot` or `power-off` (the default when nobody was asked) |

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// What to do when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Reboot,
    PowerOff,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub disk: Option<String>,
    pub erase: bool,
    pub then: Option<Then>,
}

impl Orders {
    /// Reads the credentials whose names begin with `install.`.
    ///
    /// # Errors
    /// A value that is not one of those above: whoever gave it wants something else than would happen.
    pub fn read(credentials: &BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let mut orders = Self::default();
        for (name, value) in credentials {
            let Some(key) = name.strip_prefix("install.") else { continue };
            let value = String::from_utf8_lossy(value).trim().to_owned();
            match (key, value.as_str()) {
                ("disk", disk) if !disk.is_empty() => orders.disk = Some(value),
                ("erase", "yes") => orders.erase = true,
                ("erase", "no") => orders.erase = false,
                ("then", "reboot") => orders.then = Some(Then::Reboot),
                ("then", "power-off") => orders.then = Some(Then::PowerOff),
                ("disk" | "erase" | "then", wrong) => bail!(
                    "the credential {name} says `{wrong}`: install.disk names a disk or `only`, install.erase is \
                     `yes` or `no`, install.then is `reboot` or `power-off`"
                ),
                _ => bail!(
                    "there is no credential {name}; there are install.disk, install.erase and install.then"
                ),
            }
        }
        Ok(orders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(given: &[(&str, &str)]) -> Result<Orders> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Orders::read(&given.collect())
    }

    #[test]
    fn without_credentials_a_person_is_asked_everything() {
        assert_eq!(orders(&[("appliance.admin-keys", "ssh-ed25519 A")]).unwrap(), Orders::default());
    }

    #[test]
    fn credentials_answer_every_question() {
        let given = [("install.disk", "only\n"), ("install.erase", "yes"), ("install.then", "reboot")];
        let expected = Orders { disk: Some("only".to_owned()), erase: true, then: Some(Then::Reboot) };
        assert_eq!(orders(&given).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (name, value) in [
            ("install.erase", "maybe"),
            ("install.then", "sleep"),
            ("install.disc", "sda"),
            ("install.disk", " "),
        ] {
            let refused = orders(&[(name, value)]).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
