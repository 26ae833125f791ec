//! Whether two builds of one commit are the same, and what of them is not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use super::build::Built;
use super::builder::Builder;
use super::formats;
use crate::shell;

const LIMIT: Duration = Duration::from_secs(120);

/// A build as checksums, since the next one takes its place.
#[derive(Debug)]
pub(super) struct Fingerprint {
    root_hash: String,
    parts: Vec<(&'static str, String)>,
}

impl Fingerprint {
    pub(super) fn of(builder: &Builder, built: &Built) -> Result<Self> {
        let unsigned = tempfile::NamedTempFile::new().context("make a file for the kernel image")?;
        fs::copy(&built.kernel, unsigned.path()).context("copy the kernel image")?;
        if built.signed {
            let mut remove = builder.program("usr/bin/sbattach");
            process::run(remove.arg("--remove").arg(unsigned.path()), LIMIT)?.ok()?;
        }
        let mut parts: Vec<(&str, &Path)> = vec![
            ("list of packages", &built.packages),
            ("SBOM", &built.sbom),
            ("kernel image without its signature", unsigned.path()),
        ];
        if built.signed {
            parts.push(("kernel image with its signature", &built.kernel));
        }
        parts.push(("disk", &built.raw));
        let sum = |(name, path): (_, &Path)| Ok((name, formats::sha256(builder, path)?));
        let parts = parts.into_iter().map(sum).collect::<Result<_>>()?;
        Ok(Self { root_hash: built.root_hash.clone(), parts })
    }

    /// Tells what both have in common. Another root hash is an error: that one stands for all that runs.
    pub(super) fn compare(&self, second: &Self) -> Result<()> {
        let (same, other) = self.apart(second);
        if self.root_hash != second.root_hash {
            bail!(
                "two builds differ: root hashes {} and {}; the same are: {}; see appliance-image/README.md, \
                 Reproducible",
                self.root_hash,
                second.root_hash,
                list(&same)
            );
        }
        shell::print(&format!("two builds have the same root hash; the same are also: {}", list(&same)));
        shell::print(&format!("different are: {}", list(&other)));
        Ok(())
    }

    /// The parts that are the same, and those that are not.
    fn apart<'a>(&'a self, second: &Self) -> (Vec<&'a str>, Vec<&'a str>) {
        let (same, other): (Vec<_>, Vec<_>) = self.parts.iter().partition(|part| second.parts.contains(part));
        let names =
            |parts: Vec<&'a (&'static str, String)>| parts.into_iter().map(|(name, _)| *name).collect();
        (names(same), names(other))
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(root_hash: &str, disk: &str) -> Fingerprint {
        let parts = [("SBOM", "1"), ("disk", disk)].map(|(name, sum)| (name, sum.to_owned()));
        Fingerprint { root_hash: root_hash.to_owned(), parts: parts.into() }
    }

    #[test]
    fn the_parts_that_differ_are_told_and_another_root_hash_is_an_error() {
        assert_eq!(build("r", "2").apart(&build("r", "3")), (vec!["SBOM"], vec!["disk"]));
        assert!(build("r", "2").compare(&build("r", "3")).is_ok());
        let refused = build("r", "2").compare(&build("s", "2")).unwrap_err().to_string();
        assert!(refused.contains("the same are: SBOM, disk"), "{refused}");
    }
}
