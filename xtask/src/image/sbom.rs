//! What the image is made of: an SPDX 2.3 document of Debian packages and Rust crates, and a plain list of versions.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::shell;

/// The part of mkosi's manifest that says what was installed.
#[derive(Debug, Deserialize)]
struct Manifest {
    packages: Vec<Package>,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    name: String,
    version: String,
    architecture: String,
}

/// A crate that is compiled into our programs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crate {
    name: String,
    version: String,
    licence: String,
}

impl Crate {
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        self.name == name && self.version == version
    }

    pub(super) fn licence(&self) -> &str {
        &self.licence
    }
}

/// The packages of root and initrd.
pub(super) fn packages(manifests: &[PathBuf]) -> Result<BTreeSet<Package>> {
    let mut packages = BTreeSet::new();
    for path in manifests {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let manifest: Manifest = serde_json::from_str(&text).context("read mkosi's manifest")?;
        packages.extend(manifest.packages);
    }
    Ok(packages)
}

/// One package a line, to be kept with a release and compared with the next build.
pub(super) fn list(packages: &BTreeSet<Package>) -> String {
    packages.iter().map(|one| format!("{} {} {}\n", one.name, one.version, one.architecture)).collect()
}

pub(super) fn crates() -> Result<BTreeSet<Crate>> {
    let mut tree = shell::cargo(&["tree", "--locked", "--edges", "normal"]);
    tree.args(["--package", "portcullis", "--package", "portcullis-first-boot"]);
    tree.args(["--prefix", "none", "--target", "x86_64-unknown-linux-gnu", "--format", "{p}|{l}"]);
    Ok(read_tree(&shell::output(&mut tree)?))
}

/// `name v1.2.3 (where from)|licence`, the same crate more than once.
fn read_tree(text: &str) -> BTreeSet<Crate> {
    let one = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        // Marks a crate whose dependencies were shown before.
        let licence = licence.trim_end_matches("(*)").trim();
        Some(Crate { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned() })
    };
    text.lines().filter_map(one).collect()
}

pub(super) fn document(
    packages: &BTreeSet<Package>,
    crates: &BTreeSet<Crate>,
    version: &str,
    epoch: &str,
) -> Result<String> {
    let debian = packages.iter().map(|one| {
        let purl = format!("pkg:deb/debian/{}@{}?arch={}", one.name, one.version, one.architecture);
        entry(
            &format!("deb-{}-{}", one.name, one.architecture),
            &one.name,
            &one.version,
            "NOASSERTION",
            &purl,
        )
    });
    let ours = crates.iter().map(|one| {
        let purl = format!("pkg:cargo/{}@{}", one.name, one.version);
        // An older way to say `or`.
        let licence = one.licence.replace('/', " OR ");
        let licence = if licence.is_empty() { "NOASSERTION" } else { &licence };
        entry(&format!("crate-{}-{}", one.name, one.version), &one.name, &one.version, licence, &purl)
    });
    let mut all = vec![entry("image", "portcullis", version, "NOASSERTION", "pkg:generic/portcullis")];
    all.extend(debian.chain(ours));
    let contained = all.iter().skip(1).filter_map(|one| one.get("SPDXID")).map(|id| {
        json!({
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        })
    });
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-image",
    });
    let relationships: Vec<Value> = std::iter::once(describes).chain(contained).collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("portcullis-{version}"),
        "documentNamespace": format!("urn:portcullis:image:{version}:{epoch}"),
        "creationInfo": { "created": date(epoch)?, "creators": ["Tool: cargo-xtask-image"] },
        "packages": all,
        "relationships": relationships,
    });
    serde_json::to_string_pretty(&document).context("write the SBOM")
}

fn entry(id: &str, name: &str, version: &str, licence: &str, purl: &str) -> Value {
    // Nothing else may be in an identifier.
    let id: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    json!({
        "SPDXID": format!("SPDXRef-{id}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    })
}

/// Seconds since 1970 as SPDX writes times: the days of the civil calendar, by Howard Hinnant's algorithm.
fn date(epoch: &str) -> Result<String> {
    let seconds: u64 = epoch.parse().context("the commit's time is no number")?;
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_once_each() {
        let crates =
            read_tree("a v1.0.0 (/here)|MIT\nb v2.0.0|MIT/Apache-2.0\nb v2.0.0|MIT/Apache-2.0 (*)\n");
        let crates: Vec<_> = crates.iter().map(|one| (one.name.as_str(), one.licence.as_str())).collect();
        assert_eq!(crates, [("a", "MIT"), ("b", "MIT/Apache-2.0")]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (epoch, expected) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("951782400", "2000-02-29T00:00:00Z"),
            ("1798761599", "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(epoch).unwrap(), expected);
        }
        assert!(date("soon").is_err());
    }

    #[test]
    fn the_document_names_everything_and_relates_it_to_the_image() {
        let package = Package {
            name: "libc6".to_owned(),
            version: "2.41-12".to_owned(),
            architecture: "amd64".to_owned(),
        };
        let crates = read_tree("rustls v0.23.46|Apache-2.0 OR ISC OR MIT\n");
        let text = document(&BTreeSet::from([package]), &crates, "1.2.3", "0").unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["packages"].as_array().unwrap().len(), 3);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
        assert_eq!(document["packages"][1]["SPDXID"], "SPDXRef-deb-libc6-amd64");
        assert_eq!(document["packages"][2]["licenseDeclared"], "Apache-2.0 OR ISC OR MIT");
    }
}
