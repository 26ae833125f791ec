//! A typed value becomes one of TOML. What must be a text need not stand in quotes, and a list need not have
//! brackets.

use toml_edit::{Array, Value};

use super::EditError;
use crate::config::schema::Shape;

/// Reads what was typed for a place that holds `shape`.
pub(super) fn read(shape: Shape, path: &str, typed: &str) -> Result<Value, EditError> {
    let typed = typed.trim();
    if typed.is_empty() || typed.chars().any(|c| c.is_control() && c != '\t') {
        return Err(wrong(shape, path, typed));
    }
    let read = match shape {
        Shape::Text => Some(text(typed)),
        Shape::Flag => typed.parse::<bool>().ok().map(Value::from),
        Shape::Number => typed.parse::<i64>().ok().map(Value::from).or_else(|| number(typed)),
        Shape::Mixed => Some(mixed(typed)),
        Shape::Table(_) => typed.parse().ok().filter(Value::is_inline_table),
        Shape::List(Shape::Table(_)) => typed.parse().ok().filter(Value::is_array),
        Shape::List(element) => list(*element, typed),
    };
    read.ok_or_else(|| wrong(shape, path, typed))
}

fn wrong(shape: Shape, path: &str, typed: &str) -> EditError {
    let typed = typed.chars().take(60).flat_map(char::escape_debug).collect();
    EditError::Value { path: path.to_owned(), expected: shape.expected(), typed }
}

/// In quotes or without.
fn text(typed: &str) -> Value {
    let quoted = typed.starts_with(['"', '\'']);
    let parsed = quoted.then(|| typed.parse::<Value>().ok().filter(Value::is_str)).flatten();
    parsed.unwrap_or_else(|| typed.into())
}

/// As TOML writes them too: `16_000`, `0x10`.
fn number(typed: &str) -> Option<Value> {
    typed.parse::<Value>().ok().filter(Value::is_integer)
}

fn mixed(typed: &str) -> Value {
    typed.parse::<i64>().map_or_else(|_| text(typed), Value::from)
}

/// With brackets as in TOML, or words between commas.
fn list(element: Shape, typed: &str) -> Option<Value> {
    if typed.starts_with('[') {
        return typed.parse().ok().filter(Value::is_array);
    }
    let words = typed.split(',').map(str::trim);
    let value = |word: &str| match element {
        _ if word.is_empty() => None,
        Shape::Text => Some(text(word)),
        Shape::Mixed => Some(mixed(word)),
        _ => word.parse().ok(),
    };
    Some(Value::Array(words.map(value).collect::<Option<Array>>()?))
}
