//! `cargo xtask deps`: which crate may depend on which, asked of `cargo metadata`.
//!
//! Only normal dependencies count: what a crate's tests use does not ship.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell;

/// A crate and what must not be reachable from it, with the reason.
struct Wall {
    from: &'static str,
    never: &'static [&'static str],
    why: &'static str,
}

const PROTO: &str = "portcullis-proto";
const CORE: &str = "portcullis-core";
const URING: &str = "portcullis-uring";
const GATEWAY: &str = "portcullis";
const TESTS: &str = "portcullis-tests";
const KERNEL: &str = "portcullis-ebpf-common";
const PERF: &str = "portcullis-perf";
const XTASK: &str = "xtask";

const WALLS: [Wall; 6] = [
    Wall {
        from: PROTO,
        never: &[CORE, GATEWAY, TESTS, PERF, XTASK],
        why: "proto turns bytes into values and knows nothing of us",
    },
    Wall {
        from: PROTO,
        never: &["anyhow", "hyper", "metrics", "mio", "nix", "ring", "rustls", "socket2", "tokio", "tracing"],
        why: "proto knows no policy, no clock, no socket and no operating system",
    },
    Wall {
        from: KERNEL,
        never: &[PROTO, CORE, GATEWAY, TESTS, PERF, XTASK, "aya", "nix"],
        why: "what the kernel runs is a function of bytes",
    },
    Wall {
        from: URING,
        never: &[PROTO, CORE, GATEWAY, TESTS, PERF, XTASK, "metrics", "ring", "rustls", "tokio", "tracing"],
        why: "the cage of unsafe code moves bytes, and holds nothing else",
    },
    Wall { from: CORE, never: &[GATEWAY, TESTS, PERF, XTASK], why: "core decides and depends only on proto" },
    Wall {
        from: CORE,
        never: &["anyhow", "hyper", "metrics", "mio", "nix", "ring", "rustls", "socket2", "tokio", "tracing"],
        why: "core does no input or output, counts nothing and logs nothing",
    },
];
/// Development crates: nothing that ships may depend on them.
const DEVELOPMENT: [&str; 3] = [TESTS, PERF, XTASK];
/// One TLS, one cryptography: rustls on ring. None of these may appear anywhere, not even in tests.
const FORBIDDEN: [&str; 9] = [
    "aws-lc-rs",
    "aws-lc-sys",
    "boring",
    "boring-sys",
    "mbedtls",
    "native-tls",
    "openssl",
    "openssl-sys",
    "rustls-native-certs",
];

/// Every breach of a wall, as a line for a person.
pub(crate) fn check() -> Result<Vec<String>> {
    let mut graph = Graph::read(&metadata()?)?;
    let built = built()?;
    graph.needs.retain(|name, _| built.contains(name));
    Ok(breaches(&graph))
}

/// Names of the crates that are built. The metadata have more: optional ones that a feature names without asking for
/// them (`crate?/feature`).
fn built() -> Result<BTreeSet<String>> {
    let edges = ["--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"];
    let text = shell::output(shell::cargo(&["tree", "--workspace", "--locked"]).args(edges))?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// What cargo knows of the workspace on this platform, from the lock file as it is.
pub(crate) fn metadata() -> Result<Value> {
    let version = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let mut cargo =
        shell::cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
    let text = shell::output(&mut cargo)?;
    serde_json::from_str(&text).context("read the answer of `cargo metadata`")
}

/// Names of crates and the names of what each needs to be built and run.
#[derive(Default)]
struct Graph {
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn read(metadata: &Value) -> Result<Self> {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let packages = list(metadata.get("packages"));
        let named =
            packages.iter().filter_map(|package| Some((text(package, "id")?, text(package, "name")?)));
        let names: BTreeMap<String, String> = named.collect();
        let mut graph = Self::default();
        for node in list(metadata.pointer("/resolve/nodes")) {
            let id = text(&node, "id").context("a crate without id")?;
            let name = names.get(&id).context("a crate that is not listed")?.clone();
            let needs = list(node.get("deps")).into_iter().filter(is_normal);
            let needs = needs.filter_map(|dep| names.get(&text(&dep, "pkg")?).cloned());
            graph.needs.entry(name).or_default().extend(needs);
        }
        Ok(graph)
    }

    /// The shortest way from one crate to another, if there is one.
    fn way(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut ways = vec![vec![from.to_owned()]];
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                let last = way.last()?;
                for next in self.needs.get(last).into_iter().flatten() {
                    let further = [way.as_slice(), std::slice::from_ref(next)].concat();
                    if next == to {
                        return Some(further);
                    }
                    if seen.insert(next.clone()) {
                        longer.push(further);
                    }
                }
            }
            ways = longer;
        }
        None
    }
}

fn is_normal(dependency: &Value) -> bool {
    let kinds = dependency.get("dep_kinds").and_then(Value::as_array);
    kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind.get("kind").is_none_or(Value::is_null)))
}

fn breaches(graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    for wall in &WALLS {
        for name in wall.never {
            if let Some(way) = graph.way(wall.from, name) {
                findings.push(format!("{}: {}", way.join(" → "), wall.why));
            }
        }
    }
    for name in DEVELOPMENT {
        if let Some(way) = graph.way(GATEWAY, name) {
            findings.push(format!("{}: what ships does not depend on tests or tools", way.join(" → ")));
        }
    }
    for name in FORBIDDEN.iter().filter(|name| graph.needs.contains_key(**name)) {
        let ours = [GATEWAY, TESTS, PERF, XTASK];
        let way =
            ours.iter().find_map(|from| graph.way(from, name)).unwrap_or_else(|| vec![(*name).to_owned()]);
        findings.push(format!("{}: the only TLS is rustls on ring", way.join(" → ")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let needs = edges
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|name| (*name).to_owned()).collect()));
        Graph { needs: needs.collect() }
    }

    #[test]
    fn an_indirect_breach_shows_its_way() {
        let findings = breaches(&graph(&[(PROTO, &["a"]), ("a", &["b"]), ("b", &["tokio"])]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("portcullis-proto → a → b → tokio"), "{findings:?}");
    }

    #[test]
    fn a_second_tls_is_found_wherever_it_is() {
        let findings = breaches(&graph(&[(XTASK, &["x"]), ("x", &["openssl"]), ("openssl", &[])]));
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn a_circle_ends() {
        assert!(breaches(&graph(&[(CORE, &["a"]), ("a", &["b"]), ("b", &["a"])])).is_empty());
    }
}
