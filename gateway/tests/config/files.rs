//! Whole files: several problems at once, and files that cannot be read.

use std::fs;

use portcullis::config::load;

use crate::base::read;

#[test]
fn all_problems_of_a_file_are_reported_at_once_and_in_its_order() {
    let error =
        read("[server]\nworkers = 999\nx = 1\n[log]\nlevel = \"loud\"\n[[sta]]\nname = \"s\"\nurl = 1\n")
            .unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 11), (3, 1), (5, 9), (8, 7)], "{error}");
    let line = "/etc/portcullis/portcullis.toml:5:9: `level` is \"loud\" (expected one of error, warn, info, debug, trace)";
    assert!(error.to_string().lines().any(|shown| shown == line), "{error}");
    let json = error.to_json();
    assert_eq!(json["problems"][0]["line"], 2);
    assert_eq!(json["problems"][0]["expected"], "a number from 0 to 256");
}

#[test]
fn a_thousand_problems_do_not_make_a_thousand_lines() {
    let text: String = (0..1_000).map(|n| format!("x{n} = 1\n")).collect();
    let error = read(&text).unwrap_err();
    assert_eq!(error.problems.len(), 101);
    assert!(error.to_string().ends_with("900 more problems"), "{error}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    assert!(load(&path).unwrap_err().to_string().contains("portcullis.toml: cannot be read"));
    fs::write(&path, b"[server]\nstate_dir = \"\xff\"\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("portcullis.toml:2:14: not UTF-8 text"));
    fs::write(&path, vec![b'#'; 4 * 1024 * 1024 + 1]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("is longer than"));
    fs::write(&path, "[server]\nworkers = 1\n[server]\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with(":3:2: duplicate key `server`"));
}

#[test]
fn no_cut_or_changed_byte_of_a_good_file_makes_it_fail_without_a_place() {
    let example = include_str!("../../portcullis.example.toml");
    let places: Vec<usize> =
        (0..example.len()).step_by(7).filter(|at| example.is_char_boundary(*at)).collect();
    for at in places {
        let (before, after) = example.split_at(at);
        let removed: String = after.chars().skip(1).collect();
        for text in [
            before.to_owned(),
            format!("{before}{removed}"),
            format!("{before}\"{removed}"),
            format!("{before}\0{after}"),
        ] {
            if let Err(error) = read(&text) {
                // Only the number of those that are not told has no place.
                let placed = |problem: &portcullis::config::Problem| {
                    problem.line >= 1 && problem.column >= 1 || problem.message.ends_with("more problems")
                };
                assert!(error.problems.iter().all(placed), "{error}");
            }
        }
    }
}
