//! What of a configuration two appliances have in common, and what is each one's own: the table
//! `[high_availability.node]`, the network, and the paths that its `keep` names.

use ring::digest::{SHA256, digest};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike};

use crate::config::path::{self, Step};

/// Never shared, whatever `keep` says: without them the two would be one, or not reach each other.
const ALWAYS: [&str; 2] = ["high_availability.node", "network"];

/// The text of one appliance with what is the other's own in its place.
///
/// # Errors
/// When one of the texts is no TOML.
pub fn merged(given: &str, own: &str, keep: &[String]) -> Result<String, String> {
    let mut merged = read(given)?;
    let own = read(own)?;
    for steps in paths(keep) {
        put(merged.as_table_mut(), &steps, find(own.as_table(), &steps).cloned());
    }
    Ok(merged.to_string())
}

/// A fingerprint of what is shared. Comments, order and spaces do not count.
///
/// # Errors
/// When the text is no TOML.
pub fn fingerprint(text: &str, keep: &[String]) -> Result<String, String> {
    let mut document = read(text)?;
    for steps in paths(keep) {
        put(document.as_table_mut(), &steps, None);
    }
    let values: toml::Table = document.to_string().parse().map_err(|error| format!("{error}"))?;
    // Tables of that type are ordered by their keys.
    let told = serde_json::to_vec(&values).map_err(|error| error.to_string())?;
    Ok(digest(&SHA256, &told).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| error.to_string())
}

fn paths(keep: &[String]) -> Vec<Vec<Step>> {
    let all = ALWAYS.into_iter().chain(keep.iter().map(String::as_str));
    // A path that is none was refused when the configuration was read.
    all.filter_map(|typed| Some(path::resolve(typed).ok()?.steps)).collect()
}

/// What stands at a place.
fn find<'a>(table: &'a dyn TableLike, steps: &[Step]) -> Option<&'a Item> {
    let (Step::Key(key), rest) = steps.split_first()? else { return None };
    let item = table.get(key)?;
    match rest.split_first() {
        None => Some(item),
        // A whole table of several is no item of its own; its keys are.
        Some((Step::Named(_) | Step::At(_), [])) => None,
        Some((Step::Named(name), below)) => find(named(item, name)?, below),
        Some((Step::At(at), below)) => find(numbered(item, *at)?, below),
        Some((Step::Key(_), _)) => find(item.as_table_like()?, rest),
        Some((Step::New, _)) => None,
    }
}

fn named<'a>(item: &'a Item, name: &str) -> Option<&'a dyn TableLike> {
    let has = |table: &&dyn TableLike| table.get("name").and_then(Item::as_str) == Some(name);
    rows(item).into_iter().find(has)
}

fn numbered(item: &Item, at: usize) -> Option<&dyn TableLike> {
    rows(item).into_iter().nth(at)
}

fn rows(item: &Item) -> Vec<&dyn TableLike> {
    let tables = item.as_array_of_tables().into_iter().flat_map(ArrayOfTables::iter);
    let inline = item.as_array().into_iter().flat_map(toml_edit::Array::iter);
    let tables = tables.map(|table| -> &dyn TableLike { table });
    let inline = inline.filter_map(|value| value.as_inline_table()).map(|table| -> &dyn TableLike { table });
    tables.chain(inline).collect()
}

/// Lets a place hold that, or nothing.
fn put(table: &mut dyn TableLike, steps: &[Step], what: Option<Item>) {
    let Some((Step::Key(key), rest)) = steps.split_first() else { return };
    let Some((step, below)) = rest.split_first() else {
        match what {
            Some(item) => drop(table.insert(key, unplaced(item))),
            None => drop(table.remove(key)),
        }
        return;
    };
    if matches!(step, Step::Key(_)) {
        if table.get(key).is_none() && what.is_some() {
            let mut made = Table::new();
            made.set_implicit(true);
            table.insert(key, Item::Table(made));
        }
        let Some(below) = table.get_mut(key).and_then(Item::as_table_like_mut) else { return };
        let was_empty = below.is_empty();
        put(below, rest, what);
        // A table that held nothing else is as good as absent.
        if below.is_empty() && !was_empty {
            table.remove(key);
        }
        return;
    }
    // In a table that the other one does not have nothing is kept.
    if let Some(row) = table.get_mut(key).and_then(|item| row_mut(item, step)) {
        put(row, below, what);
    }
}

fn row_mut<'a>(item: &'a mut Item, step: &Step) -> Option<&'a mut dyn TableLike> {
    let fits = |index: usize, table: &dyn TableLike| match step {
        Step::Named(name) => table.get("name").and_then(Item::as_str) == Some(name),
        Step::At(at) => index == *at,
        Step::Key(_) | Step::New => false,
    };
    match item {
        Item::ArrayOfTables(tables) => tables
            .iter_mut()
            .enumerate()
            .find(|(index, table)| fits(*index, *table))
            .map(|(_, table)| -> &mut dyn TableLike { table }),
        Item::Value(value) => {
            let tables = value.as_array_mut()?.iter_mut().filter_map(|value| value.as_inline_table_mut());
            let mut tables = tables.enumerate();
            tables
                .find(|(index, table)| fits(*index, *table))
                .map(|(_, table)| -> &mut dyn TableLike { table })
        }
        Item::None | Item::Table(_) => None,
    }
}

/// Without the place in the text that it came from, which means nothing in another text.
fn unplaced(mut item: Item) -> Item {
    if let Some(table) = item.as_table_mut() {
        unplace(table);
    }
    item
}

fn unplace(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(below) => unplace(below),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(unplace),
            Item::None | Item::Value(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# of the first\n[metrics]\nlisten = \"10.0.0.2:9464\"\n\n[limits]\nsessions = 10 # few\n\n\
        [high_availability]\nrouter_id = 51\n\n[high_availability.node]\npriority = 150\n\n\
        [[listener]]\nname = \"a\"\nlisten = [\"10.0.0.2:443\"]\n\n[[listener.allow]]\nports = [1]\n\n\
        [[listener]]\nname = \"b\"\nlisten = [\"0.0.0.0:444\"]\n";
    const SECOND: &str = "[high_availability]\nrouter_id = 7\n\n[high_availability.node]\npriority = 100\n\n\
        [metrics]\nlisten = \"10.0.0.3:9464\"\n\n[[listener]]\nname = \"a\"\nlisten = [\"10.0.0.3:443\"]\n";

    fn keep(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    fn value(text: &str) -> toml::Table {
        text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn what_is_ones_own_stays_and_the_rest_comes() {
        let keep = keep(&["metrics.listen", "listener.a.listen"]);
        let text = merged(FIRST, SECOND, &keep).unwrap();
        let expected = FIRST.replace("10.0.0.2", "10.0.0.3").replace("priority = 150", "priority = 100");
        assert_eq!(value(&text), value(&expected), "{text}");
        assert!(text.contains("sessions = 10 # few") && text.starts_with("# of the first"), "{text}");
        assert_eq!(fingerprint(&text, &keep).unwrap(), fingerprint(FIRST, &keep).unwrap());
        assert_ne!(fingerprint(SECOND, &keep).unwrap(), fingerprint(FIRST, &keep).unwrap());
        // And back: the first gets its own again.
        assert_eq!(value(&merged(&text, FIRST, &keep).unwrap()), value(FIRST));
    }

    #[test]
    fn a_value_that_one_does_not_have_is_not_taken_from_the_other() {
        let keep = keep(&["metrics", "limits.sessions"]);
        let without = SECOND.replace("[metrics]\nlisten = \"10.0.0.3:9464\"\n\n", "");
        let text = merged(FIRST, &without, &keep).unwrap();
        let merged = value(&text);
        assert!(!merged.contains_key("metrics"), "{text}");
        assert!(!merged.contains_key("limits"), "{text}");
        assert_eq!(merged["high_availability"]["node"]["priority"].as_integer(), Some(100));
        assert!(super::merged("no [ toml", SECOND, &keep).is_err());
    }

    #[test]
    fn comments_and_order_are_no_difference() {
        let other = "[limits]\nsessions = 10\n[metrics]\nlisten = \"elsewhere\"\n\
                     [[listener]]\nlisten = [\"10.0.0.2:443\"]\nname = \"a\"\nallow = [{ ports = [1] }]\n\
                     [[listener]]\nname = \"b\"\nlisten = [\"0.0.0.0:444\"]\n\
                     [high_availability]\nrouter_id = 51\n[high_availability.node]\npriority = 1\n";
        let keep = keep(&["metrics.listen"]);
        assert_eq!(fingerprint(FIRST, &keep).unwrap(), fingerprint(other, &keep).unwrap());
    }
}
