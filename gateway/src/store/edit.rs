//! Changes of a configuration's text that leave everything else in it as it is: comments, order, spaces.
//!
//! A path names the place ([`crate::config::path`]), the schema says what may stand there, and so `debug` need not be typed in
//! quotes. Whether the whole makes sense is not asked here: a listener has no certificate yet when its kind is set.

mod value;

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::config::path::{self, PathError, Place, Step};
use crate::config::schema::Shape;

/// Why a change cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("`{path}` holds {expected}, and `{typed}` is none")]
    Value { path: String, expected: &'static str, typed: String },
    #[error("there is no `{0}` in the candidate")]
    Absent(String),
    #[error("`{0}` is something else in the candidate than it should be; `validate` says what")]
    Odd(String),
    #[error("the text is no TOML: {0}")]
    Syntax(String),
}

/// What is to be done at a place.
enum Act<'a> {
    Set(&'a Value),
    Delete,
}

/// The text with a value in its place.
///
/// # Errors
/// When the path or the value is wrong.
pub fn set(text: &str, typed_path: &str, typed: &str) -> Result<String, EditError> {
    let place = path::resolve(typed_path)?;
    let value = value::read(place.shape, typed_path, typed)?;
    edit(text, typed_path, &place, &Act::Set(&value))
}

/// The text without what stands at a place.
///
/// # Errors
/// When nothing stands there.
pub fn delete(text: &str, typed_path: &str) -> Result<String, EditError> {
    let place = path::resolve(typed_path)?;
    edit(text, typed_path, &place, &Act::Delete)
}

/// What stands at a place, as TOML.
///
/// # Errors
/// When the path is wrong, or nothing stands there.
pub fn get(text: &str, typed_path: &str) -> Result<String, EditError> {
    let document = parse(text)?;
    let place = path::resolve(typed_path)?;
    look(document.as_table(), &place.steps).ok_or_else(|| EditError::Absent(typed_path.to_owned()))
}

fn look(table: &dyn TableLike, steps: &[Step]) -> Option<String> {
    let (Step::Key(key), rest) = steps.split_first()? else { return None };
    let item = table.get(key)?;
    let Some((step, below)) = rest.split_first() else { return Some(shown(item)) };
    match item {
        _ if matches!(step, Step::Key(_)) => look(item.as_table_like()?, rest),
        Item::ArrayOfTables(tables) => {
            let at = find(tables.iter().map(|table| -> &dyn TableLike { table }), step)?;
            let table = tables.get(at)?;
            if below.is_empty() { Some(table.to_string()) } else { look(table, below) }
        }
        Item::Value(Value::Array(values)) => {
            let value = values.get(find_inline(values, step)?)?;
            if below.is_empty() {
                Some(value.clone().decorated("", "").to_string())
            } else {
                look(value.as_inline_table()?, below)
            }
        }
        _ => None,
    }
}

/// Without what stands around it.
fn shown(item: &Item) -> String {
    match item {
        Item::Value(value) => value.clone().decorated("", "").to_string(),
        item => item.to_string().trim().to_owned(),
    }
}

/// The names of the tables of a kind, in their order, for completion.
#[must_use]
pub fn names(text: &str, typed_path: &str) -> Vec<String> {
    let Ok(document) = parse(text) else { return Vec::new() };
    let Ok(place) = path::resolve(typed_path) else { return Vec::new() };
    let Some((Step::Key(key), above)) = place.steps.split_last() else { return Vec::new() };
    let name = |table: &dyn TableLike| table.get("name").and_then(Item::as_str).map(str::to_owned);
    match table_at(document.as_table(), above).and_then(|table| table.get(key)) {
        Some(Item::ArrayOfTables(tables)) => tables.iter().filter_map(|table| name(table)).collect(),
        Some(Item::Value(Value::Array(values))) => {
            values.iter().filter_map(Value::as_inline_table).filter_map(|table| name(table)).collect()
        }
        _ => Vec::new(),
    }
}

/// The table to which steps lead.
fn table_at<'a>(top: &'a dyn TableLike, steps: &[Step]) -> Option<&'a dyn TableLike> {
    let Some((step, rest)) = steps.split_first() else { return Some(top) };
    let Step::Key(key) = step else { return None };
    match (top.get(key)?, rest.split_first()) {
        (Item::ArrayOfTables(tables), Some((which, rest))) => {
            let at = find(tables.iter().map(|table| -> &dyn TableLike { table }), which)?;
            table_at(tables.get(at)?, rest)
        }
        (Item::Value(Value::Array(values)), Some((which, rest))) => {
            table_at(values.get(find_inline(values, which)?)?.as_inline_table()?, rest)
        }
        (item, _) => table_at(item.as_table_like()?, rest),
    }
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error: toml_edit::TomlError| EditError::Syntax(error.to_string()))
}

fn edit(text: &str, typed: &str, place: &Place, act: &Act<'_>) -> Result<String, EditError> {
    let mut document = parse(text)?;
    Editor { typed, act }.descend(document.as_table_mut(), false, &place.steps)?;
    Ok(document.to_string())
}

/// Walks down to the place; what is missing on the way is made for a value that is set.
struct Editor<'a> {
    typed: &'a str,
    act: &'a Act<'a>,
}

impl Editor<'_> {
    fn absent(&self) -> EditError {
        EditError::Absent(self.typed.to_owned())
    }

    fn odd(&self) -> EditError {
        EditError::Odd(self.typed.to_owned())
    }

    fn makes(&self) -> bool {
        matches!(self.act, Act::Set(_))
    }

    fn descend(&self, table: &mut dyn TableLike, inline: bool, steps: &[Step]) -> Result<(), EditError> {
        let Some((Step::Key(key), rest)) = steps.split_first() else { return Err(self.odd()) };
        if rest.is_empty() {
            return self.at_key(table, inline, key);
        }
        let several = !matches!(rest.first(), Some(Step::Key(_)));
        if !table.contains_key(key) {
            if !self.makes() {
                return Err(self.absent());
            }
            table.insert(key, empty(several, inline));
        }
        let item = table.get_mut(key).ok_or_else(|| self.absent())?;
        if !several {
            let inline = item.is_value();
            return self.descend(item.as_table_like_mut().ok_or_else(|| self.odd())?, inline, rest);
        }
        let emptied = match item {
            Item::ArrayOfTables(tables) => self.among_tables(tables, rest)?,
            Item::Value(Value::Array(values)) => self.among_values(values, rest)?,
            _ => return Err(self.odd()),
        };
        if emptied {
            table.remove(key);
        }
        Ok(())
    }

    fn at_key(&self, table: &mut dyn TableLike, inline: bool, key: &str) -> Result<(), EditError> {
        match self.act {
            Act::Delete => table.remove(key).map(drop).ok_or_else(|| self.absent()),
            Act::Set(value) => {
                match table.get_mut(key) {
                    // What stands around the old value stays: a comment behind it, spaces before it.
                    Some(Item::Value(old)) => {
                        let decor = old.decor().clone();
                        *old = (*value).clone();
                        *old.decor_mut() = decor;
                    }
                    _ => drop(table.insert(key, self.item(value, inline))),
                }
                Ok(())
            }
        }
    }

    /// A table that is set whole gets a header of its own, unless it stands in a line.
    fn item(&self, value: &Value, inline: bool) -> Item {
        match value {
            Value::InlineTable(table) if !inline => Item::Table(table.clone().into_table()),
            value => Item::Value(value.clone()),
        }
    }

    /// Whether none is left.
    fn among_tables(&self, tables: &mut ArrayOfTables, steps: &[Step]) -> Result<bool, EditError> {
        let Some((step, rest)) = steps.split_first() else { return Err(self.odd()) };
        let found = find(tables.iter().map(|table| -> &dyn TableLike { table }), step);
        let at = match found {
            Some(at) => at,
            None => {
                tables.push(self.made(step, tables.len())?.into_table());
                tables.len().saturating_sub(1)
            }
        };
        match (rest.is_empty(), self.act) {
            (true, Act::Delete) => drop(tables.remove(at)),
            (true, Act::Set(value)) => {
                let table = tables.get_mut(at).ok_or_else(|| self.absent())?;
                self.fill(table, value, step)?;
            }
            (false, _) => self.descend(tables.get_mut(at).ok_or_else(|| self.absent())?, false, rest)?,
        }
        Ok(tables.is_empty())
    }

    fn among_values(&self, values: &mut Array, steps: &[Step]) -> Result<bool, EditError> {
        let Some((step, rest)) = steps.split_first() else { return Err(self.odd()) };
        let at = match find_inline(values, step) {
            Some(at) => at,
            None => {
                values.push(Value::InlineTable(self.made(step, values.len())?));
                values.len().saturating_sub(1)
            }
        };
        match (rest.is_empty(), self.act) {
            (true, Act::Delete) => drop(values.remove(at)),
            (_, act) => {
                let table =
                    values.get_mut(at).and_then(Value::as_inline_table_mut).ok_or_else(|| self.odd())?;
                match act {
                    Act::Set(value) if rest.is_empty() => self.fill(table, value, step)?,
                    _ => self.descend(table, true, rest)?,
                }
            }
        }
        Ok(values.is_empty())
    }

    /// A table that does not exist yet.
    fn made(&self, step: &Step, count: usize) -> Result<InlineTable, EditError> {
        let mut table = InlineTable::new();
        match step {
            _ if !self.makes() => return Err(self.absent()),
            Step::Named(name) => drop(table.insert("name", name.as_str().into())),
            Step::New => {}
            Step::At(at) if *at == count => {}
            Step::At(_) | Step::Key(_) => return Err(self.absent()),
        }
        Ok(table)
    }

    /// The keys of a table become those of a value; its name stays.
    fn fill(&self, table: &mut dyn TableLike, value: &Value, step: &Step) -> Result<(), EditError> {
        let new = value.as_inline_table().ok_or_else(|| self.odd())?;
        table.clear();
        if let Step::Named(name) = step {
            table.insert("name", toml_edit::value(name.as_str()));
        }
        for (key, value) in new {
            if key != "name" || !matches!(step, Step::Named(_)) {
                table.insert(key, Item::Value(value.clone()));
            }
        }
        Ok(())
    }
}

fn empty(several: bool, inline: bool) -> Item {
    match (several, inline) {
        (true, false) => Item::ArrayOfTables(ArrayOfTables::new()),
        (true, true) => Item::Value(Value::Array(Array::new())),
        (false, false) => Item::Table(Table::new()),
        (false, true) => Item::Value(Value::InlineTable(InlineTable::new())),
    }
}

fn find<'a>(mut tables: impl Iterator<Item = &'a dyn TableLike>, step: &Step) -> Option<usize> {
    match step {
        Step::Named(name) => {
            tables.position(|table| table.get("name").and_then(Item::as_str) == Some(name.as_str()))
        }
        Step::At(at) => tables.nth(*at).map(|_| *at),
        Step::Key(_) | Step::New => None,
    }
}

fn find_inline(values: &Array, step: &Step) -> Option<usize> {
    match step {
        Step::Named(name) => values.iter().position(|value| {
            let table = value.as_inline_table();
            table.and_then(|table| table.get("name")?.as_str()) == Some(name.as_str())
        }),
        Step::At(at) => values.get(*at).map(|_| *at),
        Step::Key(_) | Step::New => None,
    }
}

/// What a place holds, for completion and help.
///
/// # Errors
/// When the path is wrong.
pub fn shape_of(typed_path: &str) -> Result<Shape, EditError> {
    if typed_path.is_empty() {
        return Ok(Shape::Table(""));
    }
    Ok(path::resolve(typed_path)?.shape)
}

#[cfg(test)]
mod tests;
