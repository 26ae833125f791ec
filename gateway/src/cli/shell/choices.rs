//! Words that a key of the configuration takes: kinds, levels, names of what the configuration has elsewhere. What judges
//! configurations is asked with a word that is none of them, and says which there are, so that there is no second list.

use std::path::Path;

use crate::config::{self, schema::Shape};
use crate::store::edit;

/// No word of ours, no name, and like neither.
const NONE_OF_THEM: &str = "~~~";

/// The words that may stand at a path of this text; none where other things may.
pub(super) fn of(text: &str, path: &str) -> Vec<String> {
    let value = match edit::shape_of(path) {
        Ok(Shape::Text) => format!("\"{NONE_OF_THEM}\""),
        Ok(Shape::List(Shape::Text)) => format!("[\"{NONE_OF_THEM}\"]"),
        _ => return Vec::new(),
    };
    let Ok(edited) = edit::set(text, path, &value) else { return Vec::new() };
    let Err(error) = config::parse(&edited, Path::new("candidate")) else { return Vec::new() };
    let about_it = error.problems.iter().find(|problem| problem.message.contains(NONE_OF_THEM));
    let listed = about_it.and_then(|problem| problem.expected.as_deref()?.strip_prefix("one of "));
    let words = listed.into_iter().flat_map(|words| words.split(", "));
    let plain = |word: &&str| !word.is_empty() && !word.contains([' ', '…', '`', '"']);
    words.filter(plain).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[certificate]]\nname = \"web\"\nchain = \"c\"\nkey = \"k\"\n\
        [[certificate]]\nname = \"other\"\nchain = \"c\"\nkey = \"k\"\n\
        [[listener]]\nname = \"edge\"\nkind = \"ssl-relay\"\nlisten = [\"127.0.0.1:443\"]\n\
        certificates = [\"web\"]\ntarget = \"10.0.0.9:1494\"\n\
        [[xdp.interface]]\nname = \"eth0\"\nrole = \"mgmt\"\n";

    #[test]
    fn closed_sets_of_words_are_known() {
        for (path, word) in [
            ("log.level", "debug"),
            ("log.format", "json"),
            ("listener.edge.kind", "hdx-only"),
            ("listener.edge.min_tls", "1.3"),
            ("listener.edge.unmatched_sni", "reject"),
            ("syslog.protocol", "udp"),
            ("syslog.facility", "local0"),
            ("network.interface.eth0.dhcp", "ipv4"),
            ("xdp.mode", "generic"),
            ("xdp.interface.eth0.role", "farm"),
            ("xdp.egress_policy", "closed"),
            ("acme.challenge", "http-01"),
            ("server.relay_engine", "epoll"),
            ("server.relay_gather", "adaptive"),
        ] {
            assert!(of(TEXT, path).iter().any(|known| known == word), "{path}: {:?}", of(TEXT, path));
        }
    }

    #[test]
    fn names_of_what_is_elsewhere_in_the_candidate_are_known() {
        assert_eq!(of(TEXT, "listener.edge.certificates"), ["web", "other"]);
    }

    #[test]
    fn where_anything_may_stand_nothing_is_offered() {
        for path in ["listener.edge.target", "limits.sessions", "listener.edge.listen", "nonsense", ""] {
            assert_eq!(of(TEXT, path), [""; 0], "{path}");
        }
        assert_eq!(of("no TOML [", "log.level"), [""; 0]);
    }
}
