//! Modules of a crate stand on each other in one direction only: whoever reads one has to know those below it, and none
//! above. Tests may look anywhere.

use std::collections::BTreeMap;

/// Sources whose modules are looked at: crates of many. A buffer and its pool know each other, one level below.
const CRATES: [&str; 3] = ["gateway/src/", "gateway/core/src/", "gateway/proto/src/"];

/// For each module those that it names, each with the place where it does so first.
type Imports<'a> = BTreeMap<&'a str, BTreeMap<&'a str, String>>;

/// One line for each crate whose modules import each other in a circle.
pub(super) fn circles<'a>(files: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Vec<String> {
    let mut findings = Vec::new();
    for sources in CRATES {
        let own = files.clone().filter_map(|(path, text)| Some((path.strip_prefix(sources)?, text)));
        let own: Vec<_> = own.filter(|(path, _)| is_product(path)).collect();
        if let Some(circle) = circle(&imports(&own)) {
            findings.push(format!(
                "{sources}: modules import each other in a circle: {circle}; move down what both need"
            ));
        }
    }
    findings
}

fn is_product(path: &str) -> bool {
    path.ends_with(".rs") && !path.ends_with("/tests.rs") && !path.contains("/tests/")
}

/// `dns` of `dns.rs`, `xdp` of `xdp/loader/pins.rs`.
fn module(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn imports<'a>(files: &[(&'a str, &'a str)]) -> Imports<'a> {
    let modules: Vec<&str> = files.iter().map(|(path, _)| module(path)).collect();
    let mut imports = Imports::new();
    for (path, text) in files {
        let from = module(path);
        for (place, name) in named(text) {
            if name != from && modules.contains(&name) {
                let line = 1 + text.get(..place).unwrap_or_default().matches('\n').count();
                imports.entry(from).or_default().entry(name).or_insert_with(|| format!("{path}:{line}"));
            }
        }
    }
    imports
}

/// Every module that a file names behind `crate::`, with the place of it; what stands in comments and behind the beginning of
/// its tests does not count.
fn named(text: &str) -> Vec<(usize, &str)> {
    let product = text.split("#[cfg(test)]").next().unwrap_or(text);
    let mut names = Vec::new();
    for (place, _) in product.match_indices("crate::") {
        let line = product.get(..place).and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
        let rest = product.get(place + "crate::".len()..).unwrap_or_default();
        if line.contains("//") || line.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(list) => names.extend(members(list).into_iter().map(|name| (place, name))),
            None => names.push((place, word(rest))),
        }
    }
    names
}

/// The first words of a list in braces, without what stands in braces within it.
fn members(list: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut members) = (0_usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                members.push(word(list.get(begin..at).unwrap_or_default().trim_start()));
                begin = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
        if c == '}' && begin == at + 1 {
            break;
        }
    }
    members
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Some circle in words, if there is one.
fn circle(imports: &Imports<'_>) -> Option<String> {
    let mut left = imports.clone();
    // Whoever imports nobody that is left is in no circle.
    while let Some(free) =
        left.iter().find(|(_, to)| to.keys().all(|to| !left.contains_key(to))).map(|(from, _)| *from)
    {
        left.remove(free);
    }
    let mut at = *left.keys().next()?;
    let mut way: Vec<(&str, &String)> = Vec::new();
    while !way.iter().any(|(seen, _)| *seen == at) {
        let (to, place) = left.get(at)?.iter().find(|(to, _)| left.contains_key(*to))?;
        way.push((at, place));
        at = to;
    }
    let begin = way.iter().position(|(seen, _)| *seen == at)?;
    let steps: Vec<String> =
        way.get(begin..)?.iter().map(|(from, place)| format!("{from} ({place})")).collect();
    Some(format!("{} -> {at}", steps.join(" -> ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        circles(files.iter().copied())
    }

    #[test]
    fn a_circle_is_told_with_the_places_that_close_it() {
        let told = found(&[
            ("gateway/src/a.rs", "//! A.\nuse crate::b::X;\n"),
            ("gateway/src/b/c.rs", "//! B.\n\nuse crate::{\n    a::{Y, Z},\n    d,\n};\n"),
            ("gateway/src/d.rs", "//! D.\nuse crate::e;\n"),
            ("gateway/src/e.rs", "//! E.\n"),
        ]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("a (a.rs:2) -> b (b/c.rs:3) -> a"), "{told:?}");
    }

    #[test]
    fn comments_tests_other_crates_and_one_direction_are_no_circle() {
        let told = found(&[
            (
                "gateway/src/a.rs",
                "//! See [`crate::b`].\nfn f() { x_crate::b() }\n#[cfg(test)]\nuse crate::b;\n",
            ),
            ("gateway/src/a/tests.rs", "use crate::b;\n"),
            ("gateway/src/b.rs", "//! B.\nuse crate::a::X;\n"),
            ("perf/src/a.rs", "//! A.\nuse crate::b;\n"),
            ("perf/src/b.rs", "//! B.\nuse crate::a;\n"),
        ]);
        assert!(told.is_empty(), "{told:?}");
    }
}
