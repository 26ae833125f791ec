//! A support bundle: files of facts in one archive, each without secrets.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::redact::redact;

/// Most bytes of one file in the archive.
const FILE_MAX: usize = 8 * 1024 * 1024;

/// One in the making.
pub(crate) struct Bundle {
    /// Taken out wherever they are.
    known: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.known.zeroize();
    }
}

impl Bundle {
    pub(crate) fn new(known: Vec<String>) -> Self {
        Self { known, files: Vec::new(), missing: Vec::new() }
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let mut bytes = redact(text, &known).into_bytes();
        if bytes.len() > FILE_MAX {
            bytes.truncate(FILE_MAX);
            self.missing.push(format!("{name}: what is beyond {FILE_MAX} bytes"));
        }
        self.files.push((name.to_owned(), bytes));
    }

    /// Every text in the value is redacted; the value stays one.
    pub(crate) fn json(&mut self, name: &str, mut value: Value) {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        clean(&mut value, &known);
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        self.files.push((name.to_owned(), text.into_bytes()));
    }

    /// A line for each value.
    pub(crate) fn lines(&mut self, name: &str, values: impl IntoIterator<Item = Value>) {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let mut text = String::new();
        for mut value in values {
            clean(&mut value, &known);
            text.push_str(&value.to_string());
            text.push('\n');
            if text.len() > FILE_MAX {
                self.missing.push(format!("{name}: what is beyond {FILE_MAX} bytes"));
                break;
            }
        }
        self.files.push((name.to_owned(), text.into_bytes()));
    }

    pub(crate) fn missing(&mut self, name: &str, why: &str) {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let why = redact(why, &known);
        self.missing.push(format!("{name}: {why}"));
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn what_is_missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// The archive: everything in one directory of that name.
    ///
    /// # Errors
    /// None is expected: it is made in memory.
    pub(crate) fn pack(&self, directory: &str, made: u64) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (name, bytes) in &self.files {
            let mut header = tar::Header::new_ustar();
            header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
            header.set_mode(0o600);
            header.set_mtime(made);
            archive.append_data(&mut header, format!("{directory}/{name}"), bytes.as_slice())?;
        }
        archive.into_inner()?.finish()
    }
}

fn clean(value: &mut Value, known: &[&str]) {
    match value {
        Value::String(text) => *text = redact(text, known),
        Value::Array(values) => values.iter_mut().for_each(|value| clean(value, known)),
        Value::Object(members) => members.values_mut().for_each(|value| clean(value, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_archive_holds_what_was_put_in_without_secrets() {
        let mut bundle = Bundle::new(vec!["S3cur1tyKey".into()]);
        bundle.text("log.txt", "password=hunter2 key S3cur1tyKey\n");
        bundle.json("a.json", json!({"token": true, "list": ["x S3cur1tyKey"]}));
        bundle.lines("b.jsonl", [json!({"message": "Cookie: abc"}), json!(2)]);
        let packed = bundle.pack("support", 1_700_000_000).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            for secret in ["hunter2", "S3cur1tyKey", "abc"] {
                assert!(!text.contains(secret), "{text}");
            }
            found.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(found, ["support/log.txt", "support/a.json", "support/b.jsonl"]);
    }
}
