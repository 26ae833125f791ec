//! How a place in the configuration is named: `listener.edge.allow_from`, `limits.sessions`, `xdp.rule.2.action`.
//!
//! The words are keys, with the name of a table where there are several of a kind, or its number from 1 where these
//! have no names; `+` is a new one at the end. A name with a dot in it stands in double quotes.

use super::nearest;
use super::schema::{Shape, keys_of};

/// Longest path; every real one is far shorter.
const PATH_MAX_BYTES: usize = 512;

/// No place of a configuration; says why, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(String);

/// One word of a path, with what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(&'static str),
    /// The table whose `name` this is.
    Named(String),
    /// The table at that place, from 0.
    At(usize),
    /// A new table at the end.
    New,
}

/// A place, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub steps: Vec<Step>,
    pub shape: Shape,
}

/// Understands a path.
///
/// # Errors
/// A key that does not exist, with what was probably meant.
pub fn resolve(typed: &str) -> Result<Place, PathError> {
    let mut place = Place { steps: Vec::new(), shape: Shape::Table("") };
    let mut so_far = String::new();
    for word in words(typed)? {
        let (step, shape) = below(place.shape, &word, &so_far)?;
        place.steps.push(step);
        place.shape = shape;
        if !so_far.is_empty() {
            so_far.push('.');
        }
        so_far.push_str(&word);
    }
    if place.steps.is_empty() {
        return Err(PathError("a path is missing, such as limits.sessions".to_owned()));
    }
    Ok(place)
}

fn below(shape: Shape, word: &str, so_far: &str) -> Result<(Step, Shape), PathError> {
    match shape {
        Shape::Table(table) => {
            let keys = keys_of(table);
            if let Some((key, shape)) = keys.iter().find(|(key, _)| *key == word) {
                return Ok((Step::Key(key), *shape));
            }
            let at = if so_far.is_empty() { "at the top level".into() } else { format!("in `{so_far}`") };
            let meant = nearest(word, keys.iter().map(|(key, _)| *key));
            let meant = meant.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
            Err(PathError(format!("unknown key `{}` {at}{meant}", shown(word))))
        }
        Shape::List(Shape::Table(table)) => {
            let named = keys_of(table).iter().any(|(key, _)| *key == "name");
            let step = match word.parse::<usize>() {
                _ if word == "+" && !named => Step::New,
                Ok(number) if !named && number > 0 => Step::At(number - 1),
                _ if named && !word.is_empty() && !word.chars().any(char::is_control) => {
                    Step::Named(word.to_owned())
                }
                _ => {
                    let what = if named { "a name" } else { "a number from 1, or + for a new one" };
                    return Err(PathError(format!("behind `{so_far}` comes {what}, not `{}`", shown(word))));
                }
            };
            Ok((step, Shape::Table(table)))
        }
        _ => Err(PathError(format!("`{so_far}` holds {} and has no keys below it", shape.expected()))),
    }
}

/// The words of a path: between dots, or in double quotes.
///
/// # Errors
/// A quote that does not end, or a path that is too long.
pub fn words(typed: &str) -> Result<Vec<String>, PathError> {
    if typed.len() > PATH_MAX_BYTES {
        return Err(PathError(format!("a path has at most {PATH_MAX_BYTES} bytes")));
    }
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in typed.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    if quoted {
        return Err(PathError("a quote does not end".to_owned()));
    }
    if !typed.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// A name as a word of a path.
#[must_use]
pub fn quoted(name: &str) -> String {
    if name.contains(['.', ' ']) { format!("\"{name}\"") } else { name.to_owned() }
}

fn shown(typed: &str) -> String {
    typed.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_keys_tables_by_name_and_tables_by_number() {
        let place = resolve("listener.\"edge.one\".health.interval").unwrap();
        let steps = [
            Step::Key("listener"),
            Step::Named("edge.one".into()),
            Step::Key("health"),
            Step::Key("interval"),
        ];
        assert_eq!((place.steps.as_slice(), place.shape), (&steps[..], Shape::Text));
        let place = resolve("xdp.rule.2.ports").unwrap();
        assert_eq!(place.steps[2], Step::At(1));
        assert_eq!(place.shape, Shape::List(&Shape::Mixed));
        assert_eq!(resolve("xdp.rule.+").unwrap().steps[2], Step::New);
        assert_eq!(resolve("bans.bad_tickets.count").unwrap().shape, Shape::Number);
    }

    #[test]
    fn a_wrong_word_is_told_with_what_was_probably_meant() {
        for (typed, said) in [
            ("limits.sesions", "did you mean `sessions`?"),
            ("limit.sessions", "did you mean `limits`?"),
            ("limits.sessions.x", "has no keys below it"),
            ("xdp.rule.edge", "a number from 1"),
            ("", "a path is missing"),
            ("listener.\"edge", "does not end"),
        ] {
            let error = resolve(typed).unwrap_err().to_string();
            assert!(error.contains(said), "{typed}: {error}");
        }
    }
}
