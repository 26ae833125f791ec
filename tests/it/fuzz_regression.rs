//! Replays every file that a fuzz target begins with (`tests/fuzz/seeds`) or once stumbled over
//! (`tests/fuzz/regressions`) through its oracle, so that plain `cargo test` guards what fuzzing found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis_tests::oracles;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of one target, sorted; none when it has no folder.
fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(fuzz_dir().join(kind).join(target)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn every_seed_and_every_regression_passes_its_oracle() {
    for (target, oracle) in oracles::ALL {
        for file in [files("seeds", target), files("regressions", target)].concat() {
            let bytes = fs::read(&file).unwrap();
            let passed = std::panic::catch_unwind(|| oracle(&bytes));
            assert!(passed.is_ok(), "{} fails the oracle `{target}`", file.display());
        }
    }
}

#[test]
fn seeds_cut_anywhere_or_with_a_byte_changed_pass_their_oracle() {
    for (target, oracle) in oracles::ALL {
        for bytes in files("seeds", target).into_iter().map(|file| fs::read(file).unwrap()) {
            for at in (0..bytes.len()).step_by(bytes.len().div_ceil(200).max(1)) {
                oracle(&bytes[..at]);
                for change in [0x00, 0x20, 0x80, 0xFF] {
                    let mut changed = bytes.clone();
                    changed[at] ^= change;
                    oracle(&changed);
                }
            }
        }
    }
}

#[test]
fn every_oracle_has_a_target_and_seeds_and_nothing_else_has() {
    let names: BTreeSet<String> = oracles::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    // A folder without files does not exist in a fresh clone.
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz_dir().join(folder)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().file_stem().unwrap().to_owned());
        names.map(|name| name.into_string().unwrap()).collect()
    };
    assert_eq!(listed("fuzz_targets"), names);
    assert_eq!(listed("seeds"), names);
    assert!(listed("regressions").is_subset(&names));
    for name in &names {
        assert!(!files("seeds", name).is_empty(), "no seed for {name}");
    }
}
