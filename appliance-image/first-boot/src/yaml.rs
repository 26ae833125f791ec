//! YAML as clouds write it: a small tree, read strictly.

use anyhow::{Context as _, Result, bail};
use yaml_rust2::parser::Parser;
use yaml_rust2::{Event, Yaml, YamlLoader};

/// Collections within collections; clouds write six.
const DEPTH_MAX: usize = 32;

/// Reads one document. Aliases are refused: a few lines of them unfold to more than there is memory. So is what is nested
/// deeper than anybody writes, because trees are made and dropped by recursion.
pub(crate) fn read(text: &str) -> Result<Yaml> {
    look(text)?;
    let documents = YamlLoader::load_from_str(text).context("it is no YAML")?;
    documents.into_iter().next().context("it is empty")
}

/// Looks through the text before anything is made of it.
fn look(text: &str) -> Result<()> {
    let mut parser = Parser::new_from_str(text);
    let mut depth: usize = 0;
    loop {
        match parser.next_token().context("it is no YAML")?.0 {
            Event::StreamEnd => return Ok(()),
            Event::Alias(_) => bail!("it has aliases (`*name`), which are not taken: write the value out"),
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            bail!("it is nested deeper than {DEPTH_MAX} levels");
        }
    }
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
        let odd_names = bomb.replace('&', "&_").replace('*', "*_");
        let as_keys = "a: &a [x]\n? *a\n: y\n";
        for bomb in [bomb, &odd_names, as_keys, "&a [*a]", "- &ü x\n- *ü\n"] {
            let error = read(bomb).unwrap_err();
            assert!(format!("{error:#}").contains("aliases"), "{bomb}: {error:#}");
        }
        assert!(read("a: 2 * b\nb: '*a'\n").is_ok());
        assert!(read("a: [").is_err() && read("").is_err());
        assert_eq!(entries(&read("a: 1\nb: yes").unwrap()).len(), 2);
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused_whatever_its_form() {
        let flow = "[".repeat(100_000);
        let indented: String = (0..400).map(|level| format!("{}- \n", " ".repeat(level))).collect();
        let pairs = "? ".repeat(10_000);
        for deep in [flow.as_str(), &"{a: ".repeat(10_000), &indented, &pairs, &"- ".repeat(10_000)] {
            let error = read(deep).unwrap_err();
            let begin: String = deep.chars().take(8).collect();
            // The scanner has a limit of its own for brackets.
            let told = format!("{error:#}");
            assert!(["nested", "recursion"].iter().any(|word| told.contains(word)), "{begin}: {told}");
        }
        let fits = format!("{}x{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(read(&fits).is_ok());
    }
}
