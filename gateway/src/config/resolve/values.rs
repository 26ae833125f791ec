//! Single values: numbers and durations within bounds, words of a closed set, paths, lists.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::Resolver;
use crate::config::duration;
use crate::config::reader::{Located, shown};
use crate::config::suggest::nearest;

/// Longest name of a certificate, a listener and so on: names are labels of metrics.
const NAME_MAX_BYTES: usize = 64;

impl Resolver<'_> {
    pub(super) fn number(
        &mut self,
        key: &str,
        typed: Option<Located<i64>>,
        default: usize,
        bounds: RangeInclusive<usize>,
    ) -> usize {
        let Some(typed) = typed else { return default };
        match usize::try_from(typed.value).ok().filter(|number| bounds.contains(number)) {
            Some(number) => number,
            None => {
                self.problems.add(typed.at, format!("`{key}` is {}", typed.value)).expected(format!(
                    "a number from {} to {}",
                    bounds.start(),
                    bounds.end()
                ));
                default
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        typed: Option<Located<String>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(typed) = typed else { return default };
        let (least, most) = (duration::format(*bounds.start()), duration::format(*bounds.end()));
        match duration::parse(&typed.value) {
            Some(value) if bounds.contains(&value) => value,
            Some(value) => {
                self.problems
                    .add(typed.at, format!("`{key}` is {}", duration::format(value)))
                    .expected(format!("a duration from {least} to {most}"));
                default
            }
            None => {
                let bare_number = typed.value.bytes().all(|byte| byte.is_ascii_digit());
                let suggestion =
                    Some(format!("{}s", typed.value)).filter(|_| bare_number && typed.value.len() < 8);
                self.problems
                    .add(typed.at, format!("`{key}` is \"{}\", which is no duration", shown(&typed.value)))
                    .expected(format!("a whole number and ms, s, m, h or d, from {least} to {most}"))
                    .suggest(suggestion.filter(|text| text.len() > 1));
                default
            }
        }
    }

    /// One word of a closed set; `None` when absent or wrong.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        typed: Option<&Located<String>>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let typed = typed?;
        let found = choices.iter().find(|(word, _)| *word == typed.value);
        if found.is_none() {
            let words: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
            self.problems
                .add(typed.at, format!("`{key}` is \"{}\"", shown(&typed.value)))
                .expected(format!("one of {}", words.join(", ")))
                .suggest(nearest(&typed.value, words));
        }
        found.map(|(_, value)| *value)
    }

    /// A path, relative to the directory of the configuration file.
    pub(super) fn path(&mut self, key: &str, typed: &Located<String>) -> PathBuf {
        if typed.value.is_empty() || typed.value.contains('\0') {
            self.problems
                .add(typed.at, format!("`{key}` is \"{}\"", shown(&typed.value)))
                .expected("the path of a file");
        }
        self.base.join(&typed.value)
    }

    pub(super) fn path_or(&mut self, key: &str, typed: Option<Located<String>>, default: &str) -> PathBuf {
        match typed {
            Some(typed) => self.path(key, &typed),
            None => self.base.join(default),
        }
    }

    /// Reports an absent key of the table at `at`.
    pub(super) fn required<T>(
        &mut self,
        typed: Option<T>,
        at: usize,
        table: &str,
        key: &str,
        expected: &str,
    ) -> Option<T> {
        if typed.is_none() && !self.problems.is_unread(at, key) {
            self.problems.add(at, format!("{table} has no `{key}`")).expected(format!("`{key}`, {expected}"));
        }
        typed
    }

    /// The elements of a list: at least one where it is given, at most `most`, none twice.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        key: &str,
        typed: Option<Located<Vec<Located<String>>>>,
        most: usize,
        mut read: impl FnMut(&mut Self, &Located<String>) -> Option<T>,
    ) -> Vec<Located<T>> {
        let Some(typed) = typed else { return Vec::new() };
        self.check_length(key, typed.at, typed.value.len(), most);
        let mut values: Vec<Located<T>> = Vec::new();
        for item in typed.value.iter().take(most) {
            let Some(value) = read(self, item) else { continue };
            if values.iter().any(|earlier| earlier.value == value) {
                self.problems.add(item.at, format!("`{}` stands in `{key}` twice", shown(&item.value)));
            }
            values.push(Located { value, at: item.at });
        }
        values
    }

    pub(super) fn check_length(&mut self, key: &str, at: usize, length: usize, most: usize) {
        if length == 0 {
            self.problems
                .add(at, format!("`{key}` is empty"))
                .expected("at least one element, or no such key");
        } else if length > most {
            self.problems
                .add(at, format!("`{key}` has {length} elements"))
                .expected(format!("at most {most}"));
        }
    }

    /// A name that can be a label of metrics and be typed in a command.
    pub(super) fn is_name(&mut self, typed: &Located<String>) -> bool {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=NAME_MAX_BYTES).contains(&typed.value.len()) && typed.value.bytes().all(legal);
        if !fits {
            self.problems
                .add(typed.at, format!("\"{}\" is no name", shown(&typed.value)))
                .expected(format!("1 to {NAME_MAX_BYTES} letters, digits, `-`, `_` or `.`"));
        }
        fits
    }

    /// Whether a table of that name exists.
    pub(super) fn refers(&mut self, table: &str, typed: &Located<String>, known: &[String]) -> bool {
        let exists = known.contains(&typed.value);
        if !exists {
            let expected = if known.is_empty() {
                format!("the name of a [[{table}]], and there is none")
            } else {
                let named: Vec<&str> = known.iter().take(SHOWN_NAMES_MAX).map(String::as_str).collect();
                let more = if known.len() > SHOWN_NAMES_MAX { ", …" } else { "" };
                format!("one of {}{more}", named.join(", "))
            };
            self.problems
                .add(typed.at, format!("there is no [[{table}]] named `{}`", shown(&typed.value)))
                .expected(expected)
                .suggest(nearest(&typed.value, known.iter().map(String::as_str)));
        }
        exists
    }
}

/// Names that a message lists; the suggestion looks at all.
const SHOWN_NAMES_MAX: usize = 12;
