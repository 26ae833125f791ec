//! Reads typed values out of the TOML tree and collects everything that is wrong.
//!
//! serde's derive would stop at the first unknown key or wrong type; an operator deserves all of them at once, so
//! the tree (which has the place of every key and value) is walked here. What the keys mean is not known here.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::schema::Shape;
use super::suggest::nearest;

/// More problems than this are counted but not told: nobody reads further.
const PROBLEMS_MAX: usize = 100;

/// A value and where it stands in the text (a byte offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// The problems of one text.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    text: &'a str,
    found: Vec<(usize, Problem)>,
    /// Keys whose value could not be read, with the place of their table: those are not missing.
    unread: Vec<(usize, String)>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new(), unread: Vec::new() }
    }

    pub(super) fn add(&mut self, at: usize, message: impl Into<String>) -> Details<'_> {
        let problem =
            Problem { line: 0, column: 0, message: message.into(), expected: None, suggestion: None };
        let details = self.found.len();
        self.found.push((at, problem));
        Details { problem: self.found.get_mut(details).map(|(_, problem)| problem) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All problems in the order of the text, if there are any.
    pub(super) fn into_error(mut self, path: &Path) -> Option<ConfigError> {
        if self.found.is_empty() {
            return None;
        }
        self.found.sort_by_key(|(at, _)| *at);
        let untold = self.found.len().saturating_sub(PROBLEMS_MAX);
        let text = self.text.as_bytes();
        let placed = self.found.into_iter().take(PROBLEMS_MAX).map(|(at, problem)| {
            let (line, column) = position(text, at);
            Problem { line, column, ..problem }
        });
        let mut problems: Vec<Problem> = placed.collect();
        if untold > 0 {
            problems.extend(ConfigError::unplaced(path, format!("{untold} more problems")).problems);
        }
        Some(ConfigError { path: path.to_owned(), problems })
    }

    /// Reports keys that the table does not have.
    pub(super) fn refuse_unknown(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        known: &[&'static str],
        elsewhere: &[(&'static str, &[&'static str])],
    ) {
        for key in table.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            let typed = key.get_ref();
            let place = if name.is_empty() { "at the top level".to_owned() } else { format!("in `{name}`") };
            let owner = elsewhere.iter().find(|(_, keys)| keys.contains(&&**typed));
            let suggestion =
                nearest(typed, known.iter().copied()).map(str::to_owned).or_else(|| {
                    owner.map(|(table, _)| {
                        if table.is_empty() { format!("[{typed}]") } else { format!("{table}.{typed}") }
                    })
                });
            self.add(key.span().start, format!("unknown key `{}` {place}", shown(typed)))
                .expected(format!("one of {}", known.join(", ")))
                .suggest(suggestion);
        }
    }

    /// Reads one key of the table at `table_at`; `None` when it is absent, or wrong and reported.
    pub(super) fn field<T: FromToml>(
        &mut self,
        table: &DeTable<'_>,
        table_at: usize,
        key: &str,
    ) -> Option<Located<T>> {
        let value = table.get(key)?;
        let at = value.span().start;
        let read = T::from_toml(value, key, self);
        if read.is_none() {
            self.unread.push((table_at, key.to_owned()));
        }
        read.map(|value| Located { value, at })
    }

    /// Whether the key stands in the table at `table_at` with a value that could not be read.
    pub(super) fn is_unread(&self, table_at: usize, key: &str) -> bool {
        self.unread.iter().any(|(at, unread)| *at == table_at && unread == key)
    }

    /// Reports that a key holds something else than one table.
    pub(super) fn not_a_table(&mut self, value: &Spanned<DeValue<'_>>, key: &str) {
        let message = format!("`{key}` is {}", type_name(value.get_ref()));
        self.add(value.span().start, message).expected("one table, `[…]` with single brackets or `{ … }`");
    }

    pub(super) fn wrong_type<T: FromToml>(&mut self, value: &Spanned<DeValue<'_>>, key: &str) {
        let quoted =
            value.get_ref().as_str().filter(|text| text.len() <= 60).map(|text| format!("[{text:?}]"));
        self.add(value.span().start, format!("`{key}` is {}", type_name(value.get_ref())))
            .expected(T::expected())
            .suggest(quoted.filter(|_| T::IS_LIST_OF_STRINGS));
    }
}

/// Says more about the problem that was added last.
#[derive(Debug)]
pub(super) struct Details<'a> {
    problem: Option<&'a mut Problem>,
}

impl Details<'_> {
    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        if let Some(problem) = &mut self.problem {
            problem.expected = Some(expected.into());
        }
        self
    }

    pub(super) fn suggest(self, suggestion: Option<impl Into<String>>) {
        if let Some(problem) = self.problem {
            problem.suggestion = suggestion.map(Into::into);
        }
    }
}

/// What can be read from a TOML value.
pub(super) trait FromToml: Sized {
    const IS_STRING: bool = false;
    const IS_LIST_OF_STRINGS: bool = false;
    /// For those that write the file rather than read it.
    const SHAPE: Shape;

    /// What a right value is, for messages.
    fn expected() -> String;

    /// What a right array of these is.
    fn expected_array() -> String {
        format!("an array, each element {}", Self::expected())
    }

    /// Reads the value of `key`, or reports what is wrong with it.
    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self>;
}

impl FromToml for String {
    const IS_STRING: bool = true;
    const SHAPE: Shape = Shape::Text;

    fn expected() -> String {
        "a string".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => {
                problems.wrong_type::<Self>(value, key);
                None
            }
        }
    }
}

impl FromToml for bool {
    const SHAPE: Shape = Shape::Flag;

    fn expected() -> String {
        "true or false".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            problems.wrong_type::<Self>(value, key);
        }
        read
    }
}

impl FromToml for i64 {
    const SHAPE: Shape = Shape::Number;

    fn expected() -> String {
        "a whole number".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(integer) = value.get_ref().as_integer() else {
            problems.wrong_type::<Self>(value, key);
            return None;
        };
        let read = Self::from_str_radix(integer.as_str(), integer.radix()).ok();
        if read.is_none() {
            problems.add(value.span().start, format!("`{key}` is too large a number"));
        }
        read
    }
}

impl<T: FromToml> FromToml for Vec<Located<T>> {
    const IS_LIST_OF_STRINGS: bool = T::IS_STRING;
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn expected() -> String {
        T::expected_array()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(array) = value.get_ref().as_array() else {
            problems.wrong_type::<Self>(value, key);
            return None;
        };
        let read = |item: &Spanned<DeValue<'_>>| {
            let at = item.span().start;
            T::from_toml(item, key, problems).map(|value| Located { value, at })
        };
        let values: Self = array.iter().filter_map(read).collect();
        // With every element wrong there is a list, but none that could be judged further.
        (array.is_empty() || !values.is_empty()).then_some(values)
    }
}

/// Line and column of a byte offset, both from 1; columns count characters.
pub(super) fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).map_or(0, |line| String::from_utf8_lossy(line).chars().count()) + 1;
    (line, column)
}

/// What was typed, cut to a length that fits a message, control characters escaped.
pub(super) fn shown(typed: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let mut shown: String = typed.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if typed.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let text = "a\nöb\n".as_bytes();
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, 4), (2, 2));
        assert_eq!(position(text, 6), (3, 1));
        assert_eq!(position(text, 600), (3, 1));
    }

    #[test]
    fn long_and_unprintable_input_is_cut_and_escaped_in_messages() {
        assert_eq!(shown("a\u{7}\nb"), "a\\u{7}\\nb");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 61);
    }
}
