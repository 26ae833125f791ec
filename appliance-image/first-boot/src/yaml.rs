//! YAML as clouds write it: a small tree, read strictly.

use anyhow::{Context as _, Result, bail};
use yaml_rust2::{Yaml, YamlLoader};

/// Reads one document. Aliases are refused: a few lines of them unfold to more than there is memory.
pub(crate) fn read(text: &str) -> Result<Yaml> {
    let alias = |pair: &[u8]| matches!(pair, [before, b'*', after] if b" [,{:-\t".contains(before) && after.is_ascii_alphanumeric());
    if text.as_bytes().windows(3).any(alias) {
        bail!("it has aliases (`*name`), which are not taken: write the value out");
    }
    let documents = YamlLoader::load_from_str(text).context("it is no YAML")?;
    documents.into_iter().next().context("it is empty")
}

/// The keys of a mapping, in their order; none for what is no mapping.
pub(crate) fn entries(yaml: &Yaml) -> Vec<(String, &Yaml)> {
    let entries = yaml.as_hash().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((text(key)?, value))).collect()
}

/// A scalar as it was written.
pub(crate) fn text(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(is) => Some(is.to_string()),
        _ => None,
    }
}

/// A text or a list of texts.
pub(crate) fn texts(yaml: &Yaml) -> Option<Vec<String>> {
    match yaml {
        Yaml::Null => Some(Vec::new()),
        Yaml::Array(items) => items.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    }
}

/// As YAML 1.1 has it, in which clouds write.
pub(crate) fn is_true(yaml: &Yaml) -> bool {
    text(yaml).is_some_and(|text| ["true", "yes", "on", "1"].contains(&text.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_no_document() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
        assert!(read(bomb).unwrap_err().to_string().contains("aliases"));
        assert!(read("a: [").is_err() && read("").is_err());
        assert_eq!(entries(&read("a: 1\nb: yes").unwrap()).len(), 2);
    }
}
