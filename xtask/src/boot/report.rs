//! What the guest says over its second serial line: output of its programs, and between it lines of ours, which
//! begin with a word that no program of the guest can know.

/// The beginning of our lines; drawn for each start of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark(String);

/// One line of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Said by a program.
    Text(&'a str),
    /// The guest is up, with this kernel.
    Kernel(&'a str),
    /// A part begins.
    Begin(&'a str),
    /// A part has ended, with the exit status of its program.
    End(&'a str, u8),
    /// A test that could not run in the guest, with its reason.
    Skip(&'a str),
    /// Nothing follows.
    Done,
}

impl Mark {
    pub(crate) fn new(secret: &str) -> Self {
        Self(format!("@{secret}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn read<'a>(&self, line: &'a str) -> Line<'a> {
        // A serial terminal ends its lines with a carriage return.
        let line = line.trim_end_matches('\r');
        self.ours(line).unwrap_or(Line::Text(line))
    }

    fn ours<'a>(&self, line: &'a str) -> Option<Line<'a>> {
        // A program that has not ended its last line stands before ours.
        let (_, ours) = line.split_once(&self.0)?;
        let ours = ours.strip_prefix(' ')?;
        let (word, rest) = ours.split_once(' ').unwrap_or((ours, ""));
        match word {
            "kernel" => Some(Line::Kernel(rest)),
            "begin" => Some(Line::Begin(rest)),
            "end" => {
                let (name, status) = rest.rsplit_once(' ')?;
                Some(Line::End(name, status.parse().ok()?))
            }
            "skip" => Some(Line::Skip(rest)),
            "done" => Some(Line::Done),
            _ => None,
        }
    }
}

/// What the parts of a guest's work came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kernel: Option<String>,
    /// Parts that have ended, with their exit status.
    pub(crate) parts: Vec<(String, u8)>,
    pub(crate) skips: Vec<String>,
    pub(crate) done: bool,
}

impl Report {
    /// Takes in one line; returns what a program said, for the person who watches.
    pub(crate) fn take<'a>(&mut self, mark: &Mark, line: &'a str) -> Option<&'a str> {
        match mark.read(line) {
            Line::Text(text) => return Some(text),
            Line::Kernel(release) => self.kernel = Some(release.to_owned()),
            Line::Begin(_) => {}
            Line::End(name, status) => self.parts.push((name.to_owned(), status)),
            Line::Skip(why) => self.skips.push(why.to_owned()),
            Line::Done => self.done = true,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> (Report, Vec<String>) {
        let mark = Mark::new("k3y");
        let mut report = Report::default();
        let texts = lines.iter().filter_map(|line| report.take(&mark, line)).map(str::to_owned).collect();
        (report, texts)
    }

    #[test]
    fn our_lines_are_told_from_those_of_programs() {
        let (report, texts) = report(&[
            "@k3y kernel 6.12.0\r",
            "@k3y begin tests\r",
            "test a ... ok\r",
            "@k3y skip b: no `ip` here",
            "no line's end@k3y end tests 0\r",
            "@k3y done\r",
        ]);
        assert_eq!(texts, ["test a ... ok"]);
        assert_eq!(report.kernel.as_deref(), Some("6.12.0"));
        assert_eq!(report.parts, [(String::from("tests"), 0)]);
        assert_eq!(report.skips, ["b: no `ip` here"]);
        assert!(report.done);
    }

    #[test]
    fn a_line_with_another_mark_is_text() {
        for line in ["@other done", "@k3y", "@k3yx done", "@k3y end tests", "@k3y end tests 256", "@k3y halt"]
        {
            assert_eq!(report(&[line]), (Report::default(), vec![line.to_owned()]), "{line}");
        }
    }
}
