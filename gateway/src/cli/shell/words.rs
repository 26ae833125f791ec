//! A typed line becomes words, and what stands behind `|` becomes filters. Nothing is expanded: no variables, no
//! globs, no commands.

/// Longest line.
pub(super) const LINE_MAX_BYTES: usize = 8 * 1024;

/// One word, as it is meant and as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// With its quotes, which paths and values of the configuration have a use for.
    pub(super) typed: String,
}

/// What is done with the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Match(String),
    Except(String),
    Count,
    NoMore,
    /// `show | compare`, as in other systems.
    Compare,
}

/// A line in its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) words: Vec<Word>,
    pub(super) filters: Vec<Filter>,
}

/// Takes a line apart.
pub(super) fn line(typed: &str) -> Result<Line, String> {
    if typed.len() > LINE_MAX_BYTES {
        return Err(format!("a line has at most {LINE_MAX_BYTES} bytes"));
    }
    let words = split(typed)?;
    let mut parts = words.split(|word| word.typed == "|");
    let words = parts.next().unwrap_or_default().to_vec();
    Ok(Line { words, filters: parts.map(filter).collect::<Result<_, _>>()? })
}

fn filter(words: &[Word]) -> Result<Filter, String> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    match texts.as_slice() {
        ["match" | "include" | "grep", rest @ ..] if !rest.is_empty() => Ok(Filter::Match(rest.join(" "))),
        ["except" | "exclude", rest @ ..] if !rest.is_empty() => Ok(Filter::Except(rest.join(" "))),
        ["count"] => Ok(Filter::Count),
        ["no-more"] => Ok(Filter::NoMore),
        ["compare"] => Ok(Filter::Compare),
        _ => Err("behind `|` comes match TEXT, except TEXT, count, no-more or, in configure mode, compare"
            .to_owned()),
    }
}

/// Words between spaces; what stands in quotes belongs together.
pub(super) fn split(typed: &str) -> Result<Vec<Word>, String> {
    let (words, quote) = take_apart(typed);
    match quote {
        Some(quote) => Err(format!("a quote ({quote}) does not end")),
        None => Ok(words),
    }
}

/// The words before the cursor, and the one that is being typed, which may be empty.
pub(super) fn unfinished(typed: &str) -> (Vec<Word>, Word) {
    let (mut words, quote) = take_apart(typed);
    if quote.is_none() && (typed.is_empty() || typed.ends_with(char::is_whitespace)) {
        return (words, Word { text: String::new(), typed: String::new() });
    }
    let last = words.pop().unwrap_or_else(|| Word { text: String::new(), typed: String::new() });
    (words, last)
}

/// Whether the end of the line stands in quotes.
pub(super) fn is_quoted(typed: &str) -> bool {
    take_apart(typed).1.is_some()
}

fn take_apart(line: &str) -> (Vec<Word>, Option<char>) {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            None if c.is_whitespace() => words.extend(word.take()),
            _ => {
                let word = word.get_or_insert_with(|| Word { text: String::new(), typed: String::new() });
                word.typed.push(c);
                match quote {
                    Some(end) if c == end => quote = None,
                    None if c == '"' || c == '\'' => quote = Some(c),
                    _ => word.text.push(c),
                }
            }
        }
    }
    words.extend(word);
    (words, quote)
}

/// What the filters leave of a text.
pub(super) fn filtered(text: &str, filters: &[Filter]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for filter in filters {
        match filter {
            Filter::Match(wanted) => lines.retain(|line| has(line, wanted)),
            Filter::Except(unwanted) => lines.retain(|line| !has(line, unwanted)),
            Filter::Count => lines = vec![format!("{} lines", lines.len())],
            Filter::NoMore | Filter::Compare => {}
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Without regard to case.
fn has(line: &str, text: &str) -> bool {
    line.to_lowercase().contains(&text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(typed: &str) -> Vec<String> {
        split(typed).unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_hold_words_together_and_nothing_is_expanded() {
        assert_eq!(
            texts("ban  192.0.2.7 --note 'a b' \"c d\""),
            ["ban", "192.0.2.7", "--note", "a b", "c d"]
        );
        assert_eq!(
            texts("show $HOME `id` $(id) * ; ls > /tmp/x"),
            ["show", "$HOME", "`id`", "$(id)", "*", ";", "ls", ">", "/tmp/x"]
        );
        assert!(split("show \"x").is_err());
        assert_eq!(split("set a.\"b.c\".d").unwrap()[1].typed, "a.\"b.c\".d");
    }

    #[test]
    fn filters_stand_behind_a_bar() {
        let line = line("show sessions | match ann | count").unwrap();
        assert_eq!(line.words.len(), 2);
        assert_eq!(line.filters, [Filter::Match("ann".into()), Filter::Count]);
        assert_eq!(filtered("Ann\nbob\nANN x\n", &line.filters), "2 lines\n");
        assert_eq!(filtered("Ann\nbob\n", &[Filter::Except("ann".into())]), "bob\n");
        assert!(super::line("show sessions | sh").is_err());
        assert!(super::line("show sessions |").is_err());
    }

    #[test]
    fn the_word_under_the_cursor_is_apart() {
        let (words, last) = unfinished("show ses");
        assert_eq!((words.len(), last.text.as_str()), (1, "ses"));
        let (words, last) = unfinished("show ");
        assert_eq!((words.len(), last.text.as_str()), (1, ""));
        assert!(is_quoted("ban x --note \"what") && !is_quoted("ban x"));
    }
}
