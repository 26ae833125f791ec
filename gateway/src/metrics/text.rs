//! Writes metrics in the Prometheus text format 0.0.4, for those whose truth is elsewhere: a session counts as
//! live because the table holds it, not because somebody remembered to add one.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::names::Family;

/// Appends families to a text.
#[derive(Debug, Default)]
pub(super) struct Writer {
    text: String,
}

impl Writer {
    /// A family and its series: label values in the family's order, and the number.
    pub(super) fn family<V: Display>(
        &mut self,
        family: Family,
        series: impl IntoIterator<Item = (Vec<String>, V)>,
    ) {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return;
        }
        let (name, help, kind) = (family.name, family.help, family.kind.as_str());
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (values, number) in series {
            self.push(format_args!("{name}"));
            for (index, (label, value)) in family.labels.iter().zip(&values).enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                self.push(format_args!("{before}{label}=\"{}\"", escape(value)));
            }
            let after = if family.labels.is_empty() { "" } else { "}" };
            self.push(format_args!("{after} {number}\n"));
        }
        self.push(format_args!("\n"));
    }

    /// A family of one series without labels.
    pub(super) fn single<V: Display>(&mut self, family: Family, number: Option<V>) {
        self.family(family, number.map(|number| (Vec::new(), number)));
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let written = self.text.write_fmt(arguments);
        debug_assert!(written.is_ok());
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// One text of both, ordered by name. Families are blocks between empty lines. One that is in both would make the
/// whole unreadable to Prometheus, so `read` wins: it was read where the truth is, just now.
pub(super) fn merged(recorded: &str, read: &str) -> String {
    let mut families = BTreeMap::new();
    for block in [recorded, read].into_iter().flat_map(|text| text.split("\n\n")) {
        let block = block.trim_matches('\n');
        // `# HELP name …`
        if let Some(name) = block.split_whitespace().nth(2) {
            families.insert(name, block);
        }
    }
    let blocks: Vec<&str> = families.into_values().collect();
    blocks.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut writer = Writer::default();
        writer.family(names::STA_UP, [(vec!["a\"b\\c\nd".to_owned()], 1)]);
        let text = writer.finish();
        assert!(text.contains("portcullis_sta_up{sta=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }

    #[test]
    fn a_family_that_was_also_recorded_is_shown_once() {
        let recorded = "# HELP b x\n# TYPE b gauge\nb 1\n\n# HELP a x\n# TYPE a gauge\na 1\n\n";
        let merged = merged(recorded, "# HELP b x\n# TYPE b gauge\nb 2\n\n");
        let expected = "# HELP a x\n# TYPE a gauge\na 1\n\n# HELP b x\n# TYPE b gauge\nb 2\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_family_without_series_is_left_out() {
        let mut writer = Writer::default();
        writer.single(names::TICKETS_LIVE, None::<u64>);
        assert_eq!(writer.finish(), "");
    }
}
