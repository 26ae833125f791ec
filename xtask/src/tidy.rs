//! `cargo xtask tidy`: rules of the repository that no compiler checks.
//!
//! What rustfmt and clippy can check is theirs. A rule here names the file, the line and what to do instead.

mod modules;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use portcullis_tests::process;

use crate::shell;

const TOP_FOLDERS: [&str; 6] = ["appliance-image", "ebpf", "gateway", "perf", "tests", "xtask"];
const TOP_HIDDEN: [&str; 2] = [".cargo", ".ci"];
const TOP_FILES: [&str; 15] = [
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
];
/// A longer file is split by phase or by meaning.
const LINES_MAX: usize = 500;
/// A binary parses nothing and decides nothing: it calls the library.
const BINARY_LINES_MAX: usize = 25;
/// Nothing that a person wrote is larger.
const BYTES_MAX: usize = 512 * 1024;
/// The places of the tests that may pause: each waits for a condition with a deadline, for threads and for tasks.
const PAUSES: [&str; 2] = ["gateway/tests/sta/world.rs", "tests/src/wait.rs"];
/// The only shell script.
const SCRIPT: &str = ".ci/run";

/// The one crate of this workspace with unsafe code. A table of lints cannot be inherited and changed at once.
const CAGE: &str = "gateway/uring/Cargo.toml";

/// Words that mean unfinished work. Split, so that this file does not hold them.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK:"),
];
/// Places that exist on one person's machine only.
const PRIVATE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/home", "/"), concat!("/tmp/", "h/"), concat!("/tmp/", "spec")];
/// What the crates that only compute must not call: no clock, no file, no socket, no thread.
const INPUT_OUTPUT: [&str; 9] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
];
const COMPILED: [&str; 12] =
    [".a", ".bin", ".class", ".dll", ".exe", ".ko", ".o", ".pyc", ".rlib", ".rmeta", ".so", ".wasm"];

/// One file as the rules see it.
struct File {
    path: String,
    /// `None` for a file that is not text.
    text: Option<String>,
    bytes: usize,
    elf: bool,
}

/// Every breach of a rule, as a line for a person.
pub(crate) fn check() -> Result<Vec<String>> {
    let root = process::repository();
    let mut files = Vec::new();
    for path in shell::repository_files()? {
        let bytes = std::fs::read(root.join(&path)).with_context(|| format!("read {path}"))?;
        let elf = bytes.starts_with(b"\x7fELF");
        let (size, text) = (bytes.len(), String::from_utf8(bytes).ok());
        files.push(File { path, text: text.filter(|text| !text.contains('\0')), bytes: size, elf });
    }
    let mut findings = layout(&files);
    findings.extend(changelog(&files));
    findings.extend(cage(&files));
    findings.extend(modules::circles(
        files.iter().filter_map(|file| Some((file.path.as_str(), file.text.as_deref()?))),
    ));
    for file in &files {
        findings.extend(shape(file));
        if let Some(text) = &file.text {
            findings.extend(words(&file.path, text));
        }
    }
    findings.sort();
    Ok(findings)
}

fn layout(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut folders, mut loose) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        match file.path.split_once('/') {
            Some((folder, _)) => folders.insert(folder),
            None => loose.insert(file.path.as_str()),
        };
    }
    for folder in folders.iter().filter(|f| !TOP_FOLDERS.contains(f) && !TOP_HIDDEN.contains(f)) {
        findings.push(format!("{folder}/: not one of the folders {}", TOP_FOLDERS.join(", ")));
    }
    for folder in TOP_FOLDERS.iter().filter(|folder| !folders.contains(*folder)) {
        findings.push(format!("{folder}/: missing"));
    }
    for file in loose.iter().filter(|file| !TOP_FILES.contains(file)) {
        findings.push(format!("{file}: no such file belongs at the root (see xtask/src/tidy.rs)"));
    }
    for file in TOP_FILES.iter().filter(|file| !loose.contains(*file)) {
        findings.push(format!("{file}: missing"));
    }
    findings
}

fn changelog(files: &[File]) -> Option<String> {
    let text = files.iter().find(|file| file.path == "CHANGELOG.md")?.text.as_ref()?;
    let unreleased = text.contains("\n## [Unreleased]\n");
    (!unreleased).then(|| String::from("CHANGELOG.md: needs a section `## [Unreleased]`"))
}

/// The cage of unsafe code has the lints of the workspace but for that one.
fn cage(files: &[File]) -> Option<String> {
    let table = |path: &str| {
        let text = files.iter().find(|file| file.path == path)?.text.as_ref()?;
        text.parse::<toml::Table>().ok()
    };
    let mut workspace = table("Cargo.toml")?.get("workspace")?.get("lints")?.clone();
    let rust = workspace.get_mut("rust")?.as_table_mut()?;
    rust.insert(String::from("unsafe_code"), toml::Value::from("allow"));
    let same = table(CAGE).is_some_and(|cage| cage.get("lints") == Some(&workspace));
    (!same).then(|| format!("{CAGE}: has the lints of the workspace and `unsafe_code = \"allow\"`"))
}

/// Rules about what a file is, not about what it says.
fn shape(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    let path = &file.path;
    let mut find = |what: String| findings.push(format!("{path}: {what}"));
    if file.elf || COMPILED.iter().any(|ending| path.ends_with(ending)) {
        find(String::from("compiled objects are built, not committed"));
    }
    if file.bytes > BYTES_MAX {
        find(format!("{} KiB; make large data where it is needed", file.bytes / 1024));
    }
    if path.ends_with("/mod.rs") {
        find(String::from("`foo/` has its parent `foo.rs`"));
    }
    if path.ends_with(".sh") || (path != SCRIPT && starts_as_shell(file)) {
        find(format!("automation is an xtask; {SCRIPT} is the only shell script"));
    }
    if !path.ends_with(".rs") {
        return findings;
    }
    let lines = file.text.as_deref().unwrap_or_default().lines().count();
    if path.contains("/src/bin/") && lines > BINARY_LINES_MAX {
        find(format!("{lines} lines; a binary has at most {BINARY_LINES_MAX} and calls the library"));
    }
    if lines > LINES_MAX {
        find(format!("{lines} lines; split what has more than {LINES_MAX}"));
    }
    findings
}

fn starts_as_shell(file: &File) -> bool {
    let first = file.text.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
    first.starts_with("#!") && first.ends_with("sh")
}

/// Rules about single lines.
fn words(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let rust = path.ends_with(".rs");
    let manifest = path.ends_with("Cargo.toml") && path != "Cargo.toml" && !path.starts_with("tests/fuzz/");
    if manifest && path != CAGE && !text.contains("[lints]\nworkspace = true") {
        findings.push(format!("{path}: inherits the lints: `[lints]` and `workspace = true`"));
    }
    let test_file = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
    if rust && path.contains("src/") && !path.ends_with("/tests.rs") && !text.starts_with("//!") {
        findings.push(format!("{path}:1: begins with a module doc: what it does and what it does not"));
    }
    let computes = rust && (path.starts_with("gateway/proto/src/") || path.starts_with("gateway/core/src/"));
    let mut in_tests = test_file;
    for (index, line) in text.lines().enumerate() {
        let mut find = |what: &str| findings.push(format!("{path}:{}: {what}", index + 1));
        if UNFINISHED.iter().any(|word| line.contains(word)) {
            find("unfinished work is an issue, not a note in the source");
        }
        if PRIVATE_PATHS.iter().any(|private| line.contains(private)) {
            find("names a place that exists on one machine only");
        }
        in_tests |= rust && line.trim() == "#[cfg(test)]";
        if rust && in_tests && !PAUSES.contains(&path) && line.contains("sleep(") {
            find("a test waits for a condition (portcullis_tests::wait), never for time to pass");
        }
        if computes && !in_tests && !is_comment(line) && INPUT_OUTPUT.iter().any(|call| line.contains(call)) {
            find("proto and core compute only: no clock, file, socket, process or thread");
        }
    }
    findings
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: Some(text.to_owned()), bytes: text.len(), elf: false }
    }

    #[test]
    fn an_unknown_folder_and_a_missing_one_are_found() {
        let findings = layout(&[file("scripts/x.py", "")]).join("\n");
        assert!(
            findings.contains("scripts/: not one") && findings.contains("gateway/: missing"),
            "{findings}"
        );
    }

    #[test]
    fn the_cage_of_unsafe_code_differs_by_one_lint_from_the_workspace() {
        let root = file("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = \"forbid\"\nx = \"warn\"\n");
        let with = |text: &str| cage(&[file("Cargo.toml", root.text.as_deref().unwrap()), file(CAGE, text)]);
        assert_eq!(with("[lints.rust]\nunsafe_code = \"allow\"\nx = \"warn\"\n"), None);
        assert!(with("[lints.rust]\nunsafe_code = \"allow\"\n").is_some());
        assert!(with("[lints.rust]\nunsafe_code = \"forbid\"\nx = \"warn\"\n").is_some());
    }

    #[test]
    fn long_files_and_fat_binaries_are_found() {
        assert_eq!(shape(&file("gateway/src/a.rs", &"x\n".repeat(501))).len(), 1);
        assert_eq!(shape(&file("gateway/src/a.rs", &"x\n".repeat(500))).len(), 0);
        assert_eq!(shape(&file("gateway/src/bin/a.rs", &"x\n".repeat(26))).len(), 1);
    }

    #[test]
    fn scripts_and_compiled_objects_are_found() {
        assert_eq!(shape(&file("tests/run", "#!/bin/sh\n")).len(), 1);
        assert_eq!(shape(&file(".ci/run", "#!/usr/bin/env bash\n")).len(), 0);
        assert_eq!(shape(&file("ebpf/prog.o", "")).len(), 1);
    }

    #[test]
    fn a_pause_is_found_in_tests_only() {
        let product = concat!("//! x\nfn f() { sle", "ep(1) }\n");
        assert!(words("gateway/src/a.rs", product).is_empty());
        assert_eq!(words("tests/it/a.rs", product).len(), 1);
        assert_eq!(words("gateway/src/a.rs", &format!("//! x\n#[cfg(test)]\n{product}")).len(), 1);
    }

    #[test]
    fn clocks_and_files_in_core_are_found_outside_of_its_tests() {
        let text = "//! x\nlet now = Instant::now();\n#[cfg(test)]\nlet now = Instant::now();\n";
        assert_eq!(words("gateway/core/src/a.rs", text).len(), 1);
        assert_eq!(words("gateway/src/a.rs", text).len(), 0);
    }

    #[test]
    fn unfinished_work_and_private_paths_are_found() {
        let text = format!("{}\n{}x\n", UNFINISHED[3], PRIVATE_PATHS[0]);
        assert_eq!(words("README.md", &text).len(), 2);
    }
}
