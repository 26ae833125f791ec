//! Takes out of a text what may not leave the machine: tickets, keys, passwords and their hashes, cookies, credentials.
//!
//! Nothing of ours writes such things; this stands between what others have written into a log and a file that is sent
//! away. It takes out too much rather than too little.

/// What stands there instead.
const MARK: &str = "[redacted]";
/// Words before a value that is nobody's business, in lower case.
const TELLING: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "api_key",
    "private_key",
    "ticket",
    "credential",
];
/// A ticket's secret: 32 digits (PROTOCOL.md §2).
const TICKET_DIGITS: usize = 32;
/// How hashes of passwords begin.
const HASHES: [&str; 7] = ["$argon2", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$"];
const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END ";

/// The text without secrets; `known` are taken out wherever they are.
pub(crate) fn redact(text: &str, known: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in known.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(*secret, MARK);
    }
    let text = without_hashes(&without_keys(&text));
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        out.push_str(&redact_line(line));
    }
    out
}

/// Private keys in PEM, over lines or in one with `\n` written out.
fn without_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, block)) = rest.split_once(PEM_BEGIN) {
        out.push_str(before);
        let label = block.split("-----").next().unwrap_or_default();
        if !label.contains("PRIVATE KEY") {
            out.push_str(PEM_BEGIN);
            rest = block;
            continue;
        }
        out.push_str(MARK);
        // A key that does not end takes the rest with it.
        let behind = block.split_once(PEM_END).map_or("", |(_, behind)| behind);
        rest = behind.split_once("-----").map_or("", |(_, behind)| behind);
    }
    out.push_str(rest);
    out
}

/// Hashes of passwords (crypt(5), PHC): from their beginning to the next space or quote.
fn without_hashes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = HASHES.iter().filter_map(|hash| rest.find(hash)).min() {
        let (before, hash) = rest.split_at(at);
        out.push_str(before);
        out.push_str(MARK);
        rest = hash.trim_start_matches(|c: char| !c.is_whitespace() && c != '"' && c != '\'');
    }
    out.push_str(rest);
    out
}

fn redact_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    // What is to be taken out, from a telling word on.
    let mut taking = Taking::Nothing;
    for c in line.chars() {
        let separates = c.is_whitespace()
            || matches!(
                c,
                '"' | '\'' | ',' | '=' | ':' | '{' | '}' | '[' | ']' | '(' | ')' | '&' | '?' | '\\'
            );
        if !separates {
            word.push(c);
            continue;
        }
        taking = taking.next(&mut out, &word, c);
        word.clear();
        out.push(c);
    }
    taking.next(&mut out, &word, '\n');
    out
}

/// Where a line is with regard to a value that is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    Nothing,
    /// A telling word stands before: what comes behind `=` or `:` is a secret.
    Named,
    /// The value begins here; in quotes it ends with them, else with the next space.
    Value,
    /// In quotes.
    Quoted(char),
    /// Of a header or the like: to the end of the line.
    Rest,
}

impl Taking {
    /// Writes the word, or not, and says what comes behind the separator.
    fn next(self, out: &mut String, word: &str, separator: char) -> Self {
        match self {
            Self::Rest => {
                mark(out, word);
                if separator == '\n' { Self::Nothing } else { Self::Rest }
            }
            Self::Quoted(quote) => {
                mark(out, word);
                if separator == quote { Self::Nothing } else { self }
            }
            Self::Value if word.is_empty() && matches!(separator, '"' | '\'') => Self::Quoted(separator),
            Self::Value if word.is_empty() => self,
            Self::Value => {
                mark(out, word);
                if separator.is_whitespace() || separator == ',' { Self::Nothing } else { self }
            }
            Self::Named if word.is_empty() && matches!(separator, '=' | ':') => Self::Value,
            Self::Named if word.is_empty() && matches!(separator, '"' | '\'' | ' ') => self,
            Self::Named | Self::Nothing => {
                out.push_str(if is_secret(word) { MARK } else { word });
                named(word, separator)
            }
        }
    }
}

fn named(word: &str, separator: char) -> Taking {
    let lower = word.to_ascii_lowercase();
    if !TELLING.iter().any(|telling| lower.contains(telling)) {
        return Taking::Nothing;
    }
    let header = ["authorization", "cookie"].iter().any(|header| lower.ends_with(header));
    match separator {
        ':' if header => Taking::Rest,
        '=' | ':' => Taking::Value,
        '"' | '\'' | ' ' => Taking::Named,
        _ => Taking::Nothing,
    }
}

/// One mark for many words.
fn mark(out: &mut String, word: &str) {
    if !word.is_empty() && !out.trim_end().ends_with(MARK) {
        out.push_str(MARK);
    }
}

/// What gives itself away: a ticket string, or its secret alone.
fn is_secret(word: &str) -> bool {
    word.split(';').any(|part| {
        let digits = part.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
        part.len() >= TICKET_DIGITS && digits && part.chars().any(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "0A1B2C3D4E5F60718293A4B5C6D7E8F9";

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (line, gone) in [
            ("redeem ;40;STA1234;0A1B2C3D4E5F60718293A4B5C6D7E8F9 failed", SECRET),
            ("secret 0A1B2C3D4E5F60718293A4B5C6D7E8F9", SECRET),
            ("user ann password=hunter2 from 192.0.2.1", "hunter2"),
            ("{\"user\":\"ann\",\"password\":\"hunter2 with space\",\"ok\":true}", "hunter2"),
            ("{\"user\":\"ann\",\"password\" : \"with space\",\"ok\":true}", "space"),
            ("Cookie: NSC_AAAC=abcdef; other=ghi", "abcdef"),
            ("Cookie: NSC_AAAC=abcdef; other=ghi", "ghi"),
            ("Proxy-Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
            ("authorization: Bearer abc.def-ghi", "abc.def-ghi"),
            ("GET /x?token=abcdef&x=1", "abcdef"),
            ("ann:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "argon2id"),
            ("ann:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "aGFzaGhhc2g"),
            ("the key is S3curityK3y!", "S3curityK3y!"),
        ] {
            let out = redact(line, &["S3curityK3y!"]);
            assert!(!out.contains(gone) && out.contains(MARK), "{line} -> {out}");
        }
        let out = redact("user ann password=hunter2 from 192.0.2.1\nnext line\n", &[]);
        assert_eq!(out, "user ann password=[redacted] from 192.0.2.1\nnext line\n");
        let plain = "2026-01-01T00:00:00Z INFO session ended id=0000000100000001 bytes_up=12 sha256=ab12\n";
        assert_eq!(redact(plain, &[]), plain);
    }

    #[test]
    fn private_keys_go_wherever_they_end() {
        let whole = "a\n-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\nb";
        assert_eq!(redact(whole, &[]), "a\n[redacted]\nb");
        let line = r#"{"x":"-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\n","y":1}"#;
        let out = redact(line, &[]);
        assert!(!out.contains("MHcCAQ") && out.contains("\"y\":1"), "{out}");
        assert!(!redact("-----BEGIN RSA PRIVATE KEY-----\nMIIE", &[]).contains("MIIE"));
        let public = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(redact(public, &[]), public);
    }

    proptest! {
        #[test]
        fn a_ticket_never_stays_whatever_is_around_it(before in "[ -~]{0,40}", after in "[ \"',}&].{0,40}") {
            let text = format!("{before};40;STA1;{SECRET}{after}");
            prop_assert!(!redact(&text, &[]).contains(SECRET));
        }

        #[test]
        fn a_known_secret_never_stays(before in ".{0,40}", after in ".{0,40}") {
            let text = format!("{before}Tr0ub4dor{after}");
            let left = redact(&text, &["Tr0ub4dor"]);
            prop_assert!(!left.contains("Tr0ub4dor"));
        }
    }
}
