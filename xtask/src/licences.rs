//! `cargo xtask licences`: licence and source of every dependency against `deny.toml`.
//!
//! It reads the same lists as cargo-deny and needs no network. It does not know advisories: those need cargo-deny and
//! its database, and `cargo xtask ci` asks for them where both are there.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use portcullis_tests::process;
use serde_json::Value;

use crate::deps;

const FILE: &str = "deny.toml";

/// Every dependency that may not be used, as a line for a person.
pub(crate) fn check() -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(process::repository().join(FILE)).with_context(|| format!("read {FILE}"))?;
    let rules: toml::Table = text.parse().with_context(|| format!("read {FILE}"))?;
    let allowed = rules.get("licenses").and_then(|table| table.get("allow")).and_then(toml::Value::as_array);
    let allowed = allowed.with_context(|| format!("{FILE} holds no list `licenses.allow`"))?;
    let allowed: BTreeSet<&str> = allowed.iter().filter_map(toml::Value::as_str).collect();
    let metadata = deps::metadata()?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo lists no packages")?;
    Ok(packages.iter().filter_map(|package| judge(package, &allowed)).collect())
}

fn judge(package: &Value, allowed: &BTreeSet<&str>) -> Option<String> {
    let text = |key: &str| package.get(key).and_then(Value::as_str);
    let name = format!("{} {}", text("name").unwrap_or("?"), text("version").unwrap_or("?"));
    if let Some(source) = text("source").filter(|source| !source.starts_with("registry+")) {
        return Some(format!("{name}: comes from {source}, not from a registry"));
    }
    let Some(licence) = text("license") else {
        return Some(format!("{name}: names no licence"));
    };
    match satisfied(licence, allowed) {
        Some(true) => None,
        Some(false) => Some(format!("{name}: `{licence}` is not allowed by {FILE}")),
        None => Some(format!("{name}: `{licence}` is no SPDX expression that this check can read")),
    }
}

/// Whether an SPDX licence expression can be satisfied with the allowed licences. The old form `A/B` means OR.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> Option<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let answer = any_of(&mut words, allowed)?;
    words.next().is_none().then_some(answer)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut answer = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        answer |= all_of(words, allowed)?;
    }
    Some(answer)
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut answer = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words, allowed)?;
    }
    Some(answer)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let answer = any_of(words, allowed)?;
            words.next_if_eq(&")").map(|_| answer)
        }
        "OR" | "AND" | "WITH" | ")" => None,
        licence => {
            let exception = words.next_if_eq(&"WITH").and_then(|_| words.next());
            let full = exception.map_or_else(|| licence.to_owned(), |name| format!("{licence} WITH {name}"));
            // An exception only ever permits more than its licence does.
            Some(allowed.contains(full.as_str()) || allowed.contains(licence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_their_operators() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "ISC"]);
        for (expression, answer) in [
            ("MIT", Some(true)),
            ("GPL-3.0", Some(false)),
            ("GPL-3.0 OR MIT", Some(true)),
            ("GPL-3.0/MIT", Some(true)),
            ("GPL-3.0 AND MIT", Some(false)),
            ("(MIT OR GPL-3.0) AND ISC", Some(true)),
            ("MIT AND (GPL-3.0 OR BSD-3-Clause)", Some(false)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("MIT OR", None),
            ("(MIT", None),
            ("", None),
        ] {
            assert_eq!(satisfied(expression, &allowed), answer, "{expression}");
        }
    }

    #[test]
    fn a_dependency_from_a_repository_is_found() {
        let package =
            serde_json::json!({"name": "x", "version": "1.0.0", "license": "MIT", "source": "git+https://x"});
        assert!(judge(&package, &BTreeSet::from(["MIT"])).is_some());
    }
}
