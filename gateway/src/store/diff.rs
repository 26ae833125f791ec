//! What differs between two configurations, line by line, as people know it from `diff -u`.

use std::time::Duration;

use similar::TextDiff;

/// Longest search for the smallest difference; after it a larger one is shown.
const SEARCH_MAX: Duration = Duration::from_millis(500);
/// Unchanged lines that are shown around changed ones.
const CONTEXT: usize = 3;

/// The difference, or nothing when there is none.
#[must_use]
pub fn between(old: &str, new: &str, names: (&str, &str)) -> String {
    if old == new {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(SEARCH_MAX).diff_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT).header(names.0, names.1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_with_its_surroundings() {
        let old = (0..20).map(|n| format!("k{n} = {n}\n")).collect::<String>();
        let new = old.replace("k10 = 10", "k10 = 11");
        let shown = between(&old, &new, ("running", "candidate"));
        assert!(shown.contains("\n-k10 = 10\n+k10 = 11\n"), "{shown}");
        assert!(!shown.contains("k0 =") && !shown.contains("k19 ="), "{shown}");
        assert_eq!(between(&old, &old, ("a", "b")), "");
    }
}
