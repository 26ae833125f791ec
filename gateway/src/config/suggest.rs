//! The nearest thing that exists, for messages about things that do not.

/// The candidate that `typed` was most likely meant to be, if any is near.
///
/// Case, `-` and `_` do not count. Up to a third of the letters may differ (swapped neighbours count once), as
/// in cargo; a candidate that begins with what was typed, or the reverse, comes after those.
pub(crate) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted: String = plain(typed).chars().take(TYPED_MAX_CHARS).collect();
    let rank = |candidate: &str| {
        let candidate = plain(candidate);
        let distance = strsim::damerau_levenshtein(&wanted, &candidate);
        let longest = wanted.chars().count().max(candidate.chars().count());
        if distance <= (longest / 3).max(1) && distance < longest {
            return Some((0, distance));
        }
        let shares_start = wanted.len() >= 3 && candidate.starts_with(&wanted)
            || candidate.len() >= 3 && wanted.starts_with(&candidate);
        shares_start.then_some((1, distance))
    };
    candidates
        .into_iter()
        .filter_map(|candidate| rank(candidate).map(|rank| (rank, candidate)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, candidate)| candidate)
}

/// More of a key or value than this is not compared: the comparison takes time in the product of the lengths.
const TYPED_MAX_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["listen", "certificates", "min_tls", "allow_from", "allow"];

    #[test]
    fn slips_of_the_finger_find_their_key() {
        for (typed, meant) in [
            ("listen", "listen"),
            ("certificate", "certificates"),
            ("cert", "certificates"),
            ("min-tls", "min_tls"),
            ("Min_TLS", "min_tls"),
            ("alow", "allow"),
            ("allow_form", "allow_from"),
            ("listen_addresses", "listen"),
        ] {
            assert_eq!(nearest(typed, KEYS), Some(meant), "{typed}");
        }
    }

    #[test]
    fn what_resembles_nothing_gets_no_suggestion() {
        for typed in ["", "x", "zzzzzz", "port", &"l".repeat(10_000), &"é".repeat(10_000)] {
            assert_eq!(nearest(typed, KEYS), None, "{typed}");
        }
    }
}
