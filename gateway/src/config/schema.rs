//! Which keys there are and what each holds, for those that write the file rather than read it: the editor of the
//! candidate configuration, and completion on the command line. What the keys mean is not known here.

use super::file;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Number,
    Flag,
    /// A number or a text, such as a port or a range of ports.
    Mixed,
    /// A table of that name: what [`keys_of`] is asked for.
    Table(&'static str),
    List(&'static Self),
}

impl Shape {
    /// Tables `{ count, within }`, of which there are several.
    pub(super) const THRESHOLD: &'static str = "threshold";

    /// What to write, for people.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a whole number",
            Self::Flag => "true or false",
            Self::Mixed => "a number or a text",
            Self::Table(_) => "a table: set one of its keys",
            Self::List(Self::Table(_)) => "tables: name one of them, then set one of its keys",
            Self::List(_) => "a list, such as [\"a\", \"b\"] or a,b",
        }
    }
}

const THRESHOLD_KEYS: &[(&str, Shape)] = &[("count", Shape::Number), ("within", Shape::Text)];

/// The keys of a table with what each holds; the top level is the table without a name.
#[must_use]
pub fn keys_of(table: &str) -> &'static [(&'static str, Shape)] {
    if table == Shape::THRESHOLD {
        return THRESHOLD_KEYS;
    }
    file::SHAPES.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| *keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_a_key_holds_is_known() {
        for (table, keys) in file::SHAPES {
            for (key, shape) in *keys {
                let (Shape::Table(below) | Shape::List(Shape::Table(below))) = shape else { continue };
                assert!(!keys_of(below).is_empty(), "{table}.{key} holds `{below}`");
            }
        }
    }

    #[test]
    fn keys_say_what_they_hold() {
        let of = |table: &str, key: &str| keys_of(table).iter().find(|(name, _)| *name == key).unwrap().1;
        assert_eq!(of("limits", "sessions"), Shape::Number);
        assert_eq!(of("", "listener"), Shape::List(&Shape::Table("listener")));
        assert_eq!(of("listener", "listen"), Shape::List(&Shape::Text));
        assert_eq!(of("threshold", "count"), Shape::Number);
    }
}
