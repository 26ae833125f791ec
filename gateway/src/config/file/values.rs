//! Values of the file that are more than one word of TOML.

use toml::Spanned;
use toml::de::DeValue;

use super::super::reader::{FromToml, Located, Problems};
use super::super::schema::Shape;

/// A port or a range of ports, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Ports {
    One(i64),
    Range(String),
}

impl FromToml for Ports {
    const SHAPE: Shape = Shape::Mixed;

    fn expected() -> String {
        "a port such as 1494 or a range such as \"3000-3010\"".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(_) => i64::from_toml(value, key, problems).map(Self::One),
            DeValue::String(text) => Some(Self::Range(text.clone().into_owned())),
            _ => {
                problems.wrong_type::<Self>(value, key);
                None
            }
        }
    }
}

/// Something with a name and a number, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum NameOrNumber {
    Name(String),
    Number(i64),
}

impl FromToml for NameOrNumber {
    const SHAPE: Shape = Shape::Mixed;

    fn expected() -> String {
        "a name in quotes or a number".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Integer(_) => i64::from_toml(value, key, problems).map(Self::Number),
            DeValue::String(text) => Some(Self::Name(text.clone().into_owned())),
            _ => {
                problems.wrong_type::<Self>(value, key);
                None
            }
        }
    }
}

/// So many within that time, as typed.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Threshold {
    pub(in crate::config) count: Option<Located<i64>>,
    pub(in crate::config) within: Option<Located<String>>,
}

impl FromToml for Threshold {
    const SHAPE: Shape = Shape::Table(Shape::THRESHOLD);

    fn expected() -> String {
        "a count and a time, such as { count = 20, within = \"5m\" }".into()
    }

    fn from_toml(value: &Spanned<DeValue<'_>>, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            problems.wrong_type::<Self>(value, key);
            return None;
        };
        let at = value.span().start;
        problems.refuse_unknown(table, key, &["count", "within"], &[]);
        Some(Self { count: problems.field(table, at, "count"), within: problems.field(table, at, "within") })
    }
}
