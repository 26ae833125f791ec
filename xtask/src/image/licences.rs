//! The licence texts of the crates that are compiled into our programs, for the image: each distinct text once, with the
//! crates that carry it.
//!
//! Texts are those that crates bring in their own packages. The few that bring none are named at the end with what they
//! declare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::sbom::{Crate, KERNEL_SIDE};
use crate::shell;

/// How the names of files begin that hold a licence, or what a licence wants passed on.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT", "UNLICENSE"];
/// In a compiler's directory.
const STANDARD_LIBRARY: &str = "share/doc/rust/COPYRIGHT-library.html";
const RULE: &str = "================================================================================";

/// One document with all of them.
pub(super) fn document(crates: &BTreeSet<Crate>) -> Result<String> {
    let mut named: BTreeMap<(String, String), Found> = BTreeMap::new();
    for package in packages(&[])? {
        if let Some(wanted) = crates.iter().find(|one| one.is(&package.name, &package.version)) {
            named.insert((package.name, package.version), Found::read(&package.directory, wanted.licence())?);
        }
    }
    // Its build tools are not told apart.
    for package in packages(&["--manifest-path", KERNEL_SIDE])? {
        let found = Found::read(&package.directory, &package.licence)?;
        named.entry((package.name, package.version)).or_insert(found);
    }
    Ok(write(&named))
}

/// What the Rust project says of its standard library and all that is in it: a file that compilers come with.
pub(super) fn of_the_standard_library() -> Result<PathBuf> {
    let sysroot = shell::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let path = Path::new(sysroot.trim()).join(STANDARD_LIBRARY);
    if !path.is_file() {
        bail!(
            "{} is missing: a compiler of the Rust project is needed (rustup toolchain install)",
            path.display()
        );
    }
    Ok(path)
}

/// What one crate says.
#[derive(Debug)]
struct Found {
    declared: String,
    /// By file name.
    texts: BTreeMap<String, String>,
}

impl Found {
    fn read(directory: &Path, declared: &str) -> Result<Self> {
        let mut texts = BTreeMap::new();
        let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let path = entry.context("list a crate's files")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let upper = name.to_ascii_uppercase();
            if path.is_file() && NAMES.iter().any(|start| upper.starts_with(start)) {
                let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                // White space differs between copies of the same text.
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
                texts.insert(name, lines.join("\n"));
            }
        }
        Ok(Self { declared: declared.to_owned(), texts })
    }
}

fn write(named: &BTreeMap<(String, String), Found>) -> String {
    let mut by_text: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for ((name, version), found) in named {
        for text in found.texts.values() {
            by_text.entry(text).or_default().push(format!("{name} {version}"));
        }
        if found.texts.is_empty() {
            without.push(format!("{name} {version}: {}", found.declared));
        }
    }
    let mut texts: Vec<_> = by_text.into_iter().collect();
    // Those that most share come first; the order is the same in every build.
    texts.sort_by_key(|(text, users)| (std::cmp::Reverse(users.len()), *text));
    let mut document = String::from("Licences of the Rust crates that Portcullis is made of.\n");
    for (text, mut users) in texts {
        users.dedup();
        // Writing to a string cannot fail.
        write!(document, "\n{RULE}\n{}\n{RULE}\n\n{text}\n", users.join(", ")).unwrap_or_default();
    }
    if !without.is_empty() {
        let list = without.join("\n");
        write!(document, "\n{RULE}\nThese bring no text of their own, and declare:\n{RULE}\n\n{list}\n")
            .unwrap_or_default();
    }
    document
}

#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    directory: PathBuf,
}

/// What cargo knows of, here or in another workspace.
fn packages(more: &[&str]) -> Result<Vec<Package>> {
    let mut metadata = shell::cargo(&["metadata", "--locked", "--format-version", "1"]);
    let said: Value =
        serde_json::from_str(&shell::output(metadata.args(more))?).context("read cargo's list")?;
    let packages = said.get("packages").and_then(Value::as_array).context("cargo lists no packages")?;
    let one = |package: &Value| {
        let text = |key: &str| package.get(key).and_then(Value::as_str).map(str::to_owned);
        let directory = PathBuf::from(text("manifest_path")?).parent()?.to_owned();
        let licence = text("license").unwrap_or_default();
        Some(Package { name: text("name")?, version: text("version")?, licence, directory })
    };
    packages.iter().map(|package| one(package).context("cargo's list has a hole")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[(&str, &str)]) -> Found {
        let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Found { declared: "MIT".to_owned(), texts }
    }

    #[test]
    fn a_text_that_many_share_is_there_once_and_names_them_all() {
        let crates = [("a", found(&[("LICENSE", "be free")])), ("b", found(&[("LICENSE-MIT", "be free")]))];
        let mut named: BTreeMap<_, _> =
            crates.map(|(name, found)| ((name.to_owned(), "1.0.0".to_owned()), found)).into();
        named.insert(("c".to_owned(), "2.0.0".to_owned()), found(&[]));
        let document = write(&named);
        assert_eq!(document.matches("be free").count(), 1, "{document}");
        assert!(document.contains("a 1.0.0, b 1.0.0\n"), "{document}");
        assert!(document.ends_with("c 2.0.0: MIT\n"), "{document}");
    }

    #[test]
    fn only_files_named_for_it_are_taken_as_licences() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("LICENSE-MIT", "one  \n"), ("license.txt", "two"), ("src.rs", "three")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let found = Found::read(directory.path(), "MIT").unwrap();
        let texts: Vec<&str> = found.texts.values().map(String::as_str).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[test]
    fn every_crate_of_ours_is_in_the_document() {
        let crates = super::super::sbom::crates().unwrap();
        let document = document(&crates).unwrap();
        for name in ["rustls 0.", "tokio 1.", "aya-ebpf "] {
            assert!(document.contains(name), "{name}");
        }
    }
}
