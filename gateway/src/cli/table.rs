//! Tables that fit the terminal: columns as wide as their widest cell, and where that is too much, those that may
//! be shortened are, with an ellipsis.

/// Least width of a column that may be shortened.
const SHORTENED_MIN: usize = 6;
const GAP: &str = "  ";

/// How a cell is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Good,
    Bad,
    Doubtful,
    Faint,
    Title,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\u{1b}[32m",
            Self::Bad => "\u{1b}[31m",
            Self::Doubtful => "\u{1b}[33m",
            Self::Faint => "\u{1b}[2m",
            Self::Title => "\u{1b}[1m",
        }
    }

    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        if colour && self != Self::Plain {
            format!("{}{text}\u{1b}[0m", self.code())
        } else {
            text.to_owned()
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Cell {
    text: String,
    paint: Paint,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    title: &'static str,
    right: bool,
    shorten: bool,
}

/// A table in the making.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A column whose cells are always shown whole.
    pub(crate) fn column(mut self, title: &'static str) -> Self {
        self.columns.push(Column { title, right: false, shorten: false });
        self
    }

    /// A column of numbers.
    pub(crate) fn number(mut self, title: &'static str) -> Self {
        self.columns.push(Column { title, right: true, shorten: false });
        self
    }

    /// A column whose cells may be shortened.
    pub(crate) fn wide(mut self, title: &'static str) -> Self {
        self.columns.push(Column { title, right: false, shorten: true });
        self
    }

    /// A row; `paints` colours some of its cells.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>, paints: &[(usize, Paint)]) {
        let paint =
            |index| paints.iter().find(|(at, _)| *at == index).map_or(Paint::Plain, |(_, paint)| *paint);
        let cell = |(index, text): (usize, String)| Cell { text: clean(&text), paint: paint(index) };
        self.rows.push(cells.into_iter().enumerate().map(cell).collect());
    }

    /// The table as text, with a final newline. Titles of all columns empty: no title line.
    pub(crate) fn render(&self, width: usize, colour: bool) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        if self.columns.iter().any(|column| !column.title.is_empty()) {
            let title = |column: &Column| Cell { text: column.title.to_owned(), paint: Paint::Title };
            self.push_row(&mut text, &self.columns.iter().map(title).collect::<Vec<_>>(), &widths, colour);
        }
        for row in &self.rows {
            self.push_row(&mut text, row, &widths, colour);
        }
        text
    }

    fn push_row(&self, text: &mut String, row: &[Cell], widths: &[usize], colour: bool) {
        let mut line = String::new();
        let mut pad = 0;
        for (index, ((column, width), cell)) in self.columns.iter().zip(widths).zip(row).enumerate() {
            let shown = shorten(&cell.text, *width);
            let missing = width.saturating_sub(shown.chars().count());
            line.extend(std::iter::repeat_n(' ', pad));
            if index > 0 {
                line.push_str(GAP);
            }
            if column.right {
                line.extend(std::iter::repeat_n(' ', missing));
            }
            line.push_str(&cell.paint.paint(&shown, colour));
            // Padding waits for the next cell, so that no line ends in spaces.
            pad = if column.right { 0 } else { missing };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }

    fn widths(&self, available: usize) -> Vec<usize> {
        let cell_width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| cell_width(index).max(column.title.chars().count()))
            .collect();
        let gaps = GAP.len() * self.columns.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(available);
        while over > 0 {
            // The widest column that may, gives one; so they end up alike.
            let candidates = widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.shorten);
            let widest = candidates.map(|(width, _)| width).max_by_key(|width| **width);
            let Some(width) = widest.filter(|width| **width > SHORTENED_MIN) else { break };
            *width -= 1;
            over -= 1;
        }
        widths
    }
}

/// Names come from clients and tickets: nothing of them may move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new().column("ID").wide("NAME").number("BYTES");
        table.row(["1".into(), "a long name of an application".into(), "12".into()], &[(0, Paint::Good)]);
        table.row(["2".into(), "short".into(), "4567".into()], &[]);
        table
    }

    #[test]
    fn columns_line_up() {
        let expected = "\
ID  NAME                           BYTES
1   a long name of an application     12
2   short                           4567
";
        assert_eq!(table().render(usize::MAX, false), expected);
    }

    #[test]
    fn what_is_too_wide_is_shortened_down_to_a_minimum() {
        let text = table().render(24, false);
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert!(text.contains("a long name …"), "{text}");
        assert!(table().render(1, false).contains("a lon…"));
    }

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let text = table().render(usize::MAX, true);
        assert!(text.contains("\u{1b}[32m1\u{1b}[0m   a long"), "{text:?}");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let mut table = Table::new().column("");
        table.row(["a\u{1b}[2Jb\nc".into()], &[]);
        assert_eq!(table.render(80, true), "a\u{fffd}[2Jb\u{fffd}c\n");
    }
}
