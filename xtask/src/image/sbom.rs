//! What the image is made of: an SPDX 2.3 document of Debian packages and Rust crates, and a plain list of versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::process;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::boot::debian::SUITE;
use crate::ebpf::TARGET;
use crate::shell;

/// The kernel side has a workspace of its own; what it is made of is compiled in too.
pub(super) const KERNEL_SIDE: &str = "ebpf/Cargo.toml";
const KERNEL_SIDE_LOCK: &str = "ebpf/Cargo.lock";
const LOCK: &str = "Cargo.lock";
/// What no lock file names.
const STANDARD_LIBRARY: &str = "rust-std";

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
    /// SHA-256 of the package that it was unpacked from; none for our own.
    checksum: Option<String>,
}

impl Crate {
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        self.name == name && self.version == version
    }

    pub(super) fn licence(&self) -> &str {
        &self.licence
    }

    fn entry(&self) -> Value {
        // An older way to say `or`.
        let licence = self.licence.replace('/', " OR ");
        let kind = if self.name == STANDARD_LIBRARY { "generic" } else { "cargo" };
        Entry {
            id: format!("crate-{}-{}", self.name, self.version),
            name: &self.name,
            version: &self.version,
            supplier: "NOASSERTION",
            licence: if licence.is_empty() { "NOASSERTION" } else { &licence },
            purl: format!("pkg:{kind}/{}@{}", encoded(&self.name), encoded(&self.version)),
            checksum: self.checksum.as_deref(),
        }
        .value()
    }
}

impl Package {
    fn entry(&self) -> Value {
        let (name, version) = (encoded(&self.name), encoded(&self.version));
        Entry {
            id: format!("deb-{}-{}", self.name, self.architecture),
            name: &self.name,
            version: &self.version,
            supplier: "Organization: Debian",
            licence: "NOASSERTION",
            purl: format!("pkg:deb/debian/{name}@{version}?arch={}&distro={SUITE}", self.architecture),
            checksum: None,
        }
        .value()
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

/// Those of the image: of our programs, and of the kernel side inside of the daemon.
pub(super) fn crates() -> Result<BTreeSet<Crate>> {
    let mut crates = crates_of(&["portcullis", "portcullis-first-boot"])?;
    let mut tree = tree();
    tree.args(["--manifest-path", KERNEL_SIDE, "--target", TARGET]);
    crates.extend(read(&mut tree, KERNEL_SIDE_LOCK)?);
    Ok(crates)
}

/// Those of packages of ours, and what every program has besides: the standard library.
pub(super) fn crates_of(packages: &[&str]) -> Result<BTreeSet<Crate>> {
    let mut tree = tree();
    tree.args(["--target", "x86_64-unknown-linux-gnu"]);
    for package in packages {
        tree.args(["--package", package]);
    }
    let mut crates = read(&mut tree, LOCK)?;
    let version = shell::output(Command::new("rustc").arg("--version"))?;
    crates.insert(standard_library(&version).context("rustc tells no version")?);
    Ok(crates)
}

fn tree() -> Command {
    shell::cargo(&["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"])
}

fn read(tree: &mut Command, lock: &str) -> Result<BTreeSet<Crate>> {
    let text =
        fs::read_to_string(process::repository().join(lock)).with_context(|| format!("read {lock}"))?;
    Ok(read_tree(&shell::output(tree)?, &read_lock(&text)?))
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`
fn standard_library(version: &str) -> Option<Crate> {
    let version = version.split_whitespace().nth(1)?.to_owned();
    let licence = "MIT OR Apache-2.0".to_owned();
    Some(Crate { name: STANDARD_LIBRARY.to_owned(), version, licence, checksum: None })
}

/// Checksums by name and version.
fn read_lock(text: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: toml::Table = toml::from_str(text).context("read a lock file")?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let one = |package: &toml::Value| {
        let text = |key: &str| package.get(key)?.as_str().map(str::to_owned);
        Some(((text("name")?, text("version")?), text("checksum")?))
    };
    Ok(packages.into_iter().flatten().filter_map(one).collect())
}

/// `name v1.2.3 (where from)|licence`, the same crate more than once.
fn read_tree(text: &str, checksums: &BTreeMap<(String, String), String>) -> BTreeSet<Crate> {
    let one = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split_whitespace();
        let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
        // Marks a crate whose dependencies were shown before.
        let licence = licence.trim_end_matches("(*)").trim().to_owned();
        let checksum = checksums.get(&(name.clone(), version.clone())).cloned();
        Some(Crate { name, version, licence, checksum })
    };
    text.lines().filter_map(one).collect()
}

pub(super) fn document(
    packages: &BTreeSet<Package>,
    crates: &BTreeSet<Crate>,
    (name, version): (&str, &str),
    epoch: &str,
) -> Result<String> {
    let mut all = vec![
        Entry {
            id: "image".to_owned(),
            name,
            version,
            supplier: "Organization: Portcullis",
            licence: "NOASSERTION",
            purl: format!("pkg:generic/{name}@{}", encoded(version)),
            checksum: None,
        }
        .value(),
    ];
    all.extend(packages.iter().map(Package::entry));
    all.extend(crates.iter().map(Crate::entry));
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
        "name": format!("{name}-{version}"),
        "documentNamespace": format!("urn:{name}:image:{version}:{epoch}"),
        "creationInfo": { "created": date(epoch)?, "creators": ["Tool: cargo-xtask-image"] },
        "packages": all,
        "relationships": relationships,
    });
    serde_json::to_string_pretty(&document).context("write the SBOM")
}

/// A package as SPDX describes it.
struct Entry<'a> {
    id: String,
    name: &'a str,
    version: &'a str,
    supplier: &'a str,
    licence: &'a str,
    purl: String,
    checksum: Option<&'a str>,
}

impl Entry<'_> {
    fn value(self) -> Value {
        // Nothing else may be in an identifier.
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let id: String = self.id.chars().map(allowed).collect();
        let mut value = json!({
            "SPDXID": format!("SPDXRef-{id}"),
            "name": self.name,
            "versionInfo": self.version,
            "supplier": self.supplier,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": self.licence,
            "copyrightText": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": self.purl,
            }],
        });
        if let Some(checksum) = self.checksum {
            value["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": checksum }]);
        }
        value
    }
}

/// As package URLs want it: what stands between their parts, and what means a space, in hexadecimal.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
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
        let crates = read_tree(
            "a v1.0.0 (/here)|MIT\nb v2.0.0|MIT/Apache-2.0\nb v2.0.0|MIT/Apache-2.0 (*)\n",
            &BTreeMap::new(),
        );
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
            version: "1:2.41-12+deb13u2".to_owned(),
            architecture: "amd64".to_owned(),
        };
        let lock = "[[package]]\nname = \"rustls\"\nversion = \"0.23.46\"\nchecksum = \"ab\"\n[[package]]\nname = \"ours\"\n";
        let crates = read_tree("rustls v0.23.46|Apache-2.0 OR ISC OR MIT\n", &read_lock(lock).unwrap());
        let text = document(&BTreeSet::from([package]), &crates, ("portcullis", "1.2.3"), "0").unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["packages"].as_array().unwrap().len(), 3);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
        assert_eq!(document["packages"][1]["SPDXID"], "SPDXRef-deb-libc6-amd64");
        assert_eq!(
            document["packages"][1]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libc6@1%3A2.41-12%2Bdeb13u2?arch=amd64&distro=trixie"
        );
        assert_eq!(document["packages"][2]["licenseDeclared"], "Apache-2.0 OR ISC OR MIT");
        assert_eq!(document["packages"][2]["checksums"][0]["checksumValue"], "ab");
    }

    #[test]
    fn what_is_compiled_in_is_there_with_the_kernel_side_and_the_standard_library() {
        let crates = crates().unwrap();
        for name in ["rustls", "aya-ebpf", "portcullis-ebpf", "portcullis", STANDARD_LIBRARY] {
            assert!(crates.iter().any(|one| one.name == name), "{name}");
        }
        let without = crates.iter().filter(|one| one.checksum.is_none());
        let ours = |one: &Crate| one.name.starts_with("portcullis") || one.name == STANDARD_LIBRARY;
        assert!(without.clone().all(ours), "{:?}", without.collect::<Vec<_>>());
    }
}
