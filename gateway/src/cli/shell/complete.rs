//! What may come next on a line: for Tab, and with a word about each for `?`.

use clap::CommandFactory as _;

use super::grammar::{self, WORDS};
use super::live::{Kind, Live};
use super::words::{Word, unfinished};
use crate::cli::args::Cli;
use crate::config::schema::Shape;
use crate::store::edit;

/// Words of the shell itself.
const OWN: &[(&str, &str)] = &[
    ("configure", "change the configuration"),
    ("exit", "leave"),
    ("help", "what there is"),
    ("terminal", "colours and pages: terminal colour off, terminal pager off"),
];
/// Those of configure mode.
const OWN_CONFIGURE: &[(&str, &str)] = &[
    ("edit", "go to a place: paths begin there"),
    ("up", "go back by one word"),
    ("top", "go back to the beginning"),
    ("run", "a command from outside of configure mode"),
    ("exit", "leave configure mode; the candidate stays"),
    ("help", "what there is"),
];
const FILTERS: &[(&str, &str)] = &[
    ("match", "only lines with a text"),
    ("except", "only lines without a text"),
    ("count", "how many lines"),
    ("no-more", "without pages"),
    ("compare", "how the candidate differs"),
];

/// Something that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) word: String,
    pub(super) about: String,
    /// It can be typed as it is; otherwise it stands for something.
    pub(super) literal: bool,
    /// What comes behind it: a space, or what leads on.
    pub(super) ending: char,
}

impl Offer {
    fn word(word: impl Into<String>, about: impl Into<String>) -> Self {
        Self { word: word.into(), about: about.into(), literal: true, ending: ' ' }
    }

    fn placeholder(name: &str, about: &str) -> Self {
        Self { word: format!("<{name}>"), about: about.to_owned(), literal: false, ending: ' ' }
    }
}

/// Where the shell is.
#[derive(Clone, Debug, Default)]
pub(super) struct Mode {
    pub(super) configuring: bool,
    pub(super) place: String,
}

/// What may come at the end of a line, and how many bytes of it are the beginning of that.
pub(super) fn offers(line: &str, mode: &Mode, live: &Live) -> (usize, Vec<Offer>) {
    let (words, last) = unfinished(line);
    let all = match words.iter().rposition(|word| word.typed == "|") {
        Some(at) if at + 1 == words.len() => listed(FILTERS),
        Some(_) => Vec::new(),
        None if mode.configuring => configuring(&words, &last, mode, live),
        None => operating(&words, &last, live),
    };
    let typed = last.typed.as_str();
    let mut fitting: Vec<Offer> =
        all.into_iter().filter(|offer| !offer.literal || offer.word.starts_with(typed)).collect();
    fitting.sort_by(|one, other| (!one.literal, &one.word).cmp(&(!other.literal, &other.word)));
    fitting.dedup_by(|one, other| one.word == other.word);
    (typed.len(), fitting)
}

fn listed(words: &[(&str, &str)]) -> Vec<Offer> {
    words.iter().map(|(word, about)| Offer::word(*word, *about)).collect()
}

fn configuring(words: &[Word], last: &Word, mode: &Mode, live: &Live) -> Vec<Offer> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    match texts.as_slice() {
        [] => {
            let mut all = listed(OWN_CONFIGURE);
            all.extend(of_program(&["configure"], last, mode, live));
            all
        }
        ["run", ..] => operating(words.get(1..).unwrap_or_default(), last, live),
        ["edit"] => paths(last, mode, live),
        ["edit" | "up" | "top" | "exit" | "help", ..] => Vec::new(),
        _ => {
            let all: Vec<&str> = std::iter::once("configure").chain(texts).collect();
            of_program(&all, last, mode, live)
        }
    }
}

fn operating(words: &[Word], last: &Word, live: &Live) -> Vec<Offer> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let mut all = Vec::new();
    if texts.is_empty() {
        all.extend(listed(OWN));
    }
    if let ["terminal", rest @ ..] = texts.as_slice() {
        return match rest {
            [] => listed(&[("colour", "on or off"), ("pager", "on or off")]),
            [_] => listed(&[("on", ""), ("off", "")]),
            _ => Vec::new(),
        };
    }
    for (typed, _, about) in WORDS {
        if let Some(next) = typed.get(texts.len()).filter(|_| typed.starts_with(&texts)) {
            let ends = typed.len() == texts.len() + 1;
            let group = match *next {
                "show" => "look at something",
                "kill" => "end sessions",
                "monitor" => "look at something all the time",
                "test" => "try something",
                _ => "",
            };
            all.push(Offer::word(*next, if ends { *about } else { group }));
        }
    }
    let mode = Mode::default();
    let longest =
        WORDS.iter().filter(|(typed, _, _)| texts.starts_with(typed)).max_by_key(|(typed, _, _)| typed.len());
    match longest {
        Some((typed, meant, _)) => {
            let rest = texts.iter().skip(typed.len());
            let meant: Vec<&str> = meant.iter().chain(rest).copied().collect();
            all.extend(of_program(&meant, last, &mode, live));
        }
        None => all.extend(of_program(&texts, last, &mode, live)),
    }
    all
}

/// What clap's grammar says may come next.
fn of_program(words: &[&str], last: &Word, mode: &Mode, live: &Live) -> Vec<Offer> {
    let root = Cli::command();
    let mut command = &root;
    let mut path: Vec<&str> = Vec::new();
    let mut rest = words;
    while let Some((word, others)) = rest.split_first() {
        let Some(below) = command.find_subcommand(word) else { break };
        (command, rest) = (below, others);
        path.push(word);
    }
    if !grammar::is_allowed(&path) {
        return Vec::new();
    }
    let (mut places, mut values, mut awaits) = (0, Vec::new(), None);
    for word in rest {
        match awaits.take() {
            Some(_) => {}
            None if word.starts_with('-') => awaits = flag(command, word).filter(|flag| takes_value(flag)),
            None => {
                places += 1;
                values.push(*word);
            }
        }
    }
    let asked = Asked { path: &path, values: &values, last, mode, live };
    if let Some(argument) = awaits {
        return asked.values_of(argument);
    }
    let mut all = Vec::new();
    if places == 0 {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            let whole: Vec<&str> = path.iter().copied().chain([below.get_name()]).collect();
            if grammar::is_allowed(&whole) {
                all.push(Offer::word(below.get_name(), about(below.get_about())));
            }
        }
    }
    let argument = command.get_positionals().nth(places).or_else(|| {
        let last = command.get_positionals().last();
        last.filter(|last| last.get_num_args().is_some_and(|count| count.max_values() > 1))
    });
    all.extend(argument.into_iter().flat_map(|argument| asked.values_of(argument)));
    if last.typed.starts_with('-') || all.is_empty() {
        let flags = command.get_arguments().chain(root.get_arguments().filter(|flag| flag.is_global_set()));
        let flags = flags.filter(|flag| flag.get_value_hint() == clap::ValueHint::Unknown);
        let named =
            |flag: &clap::Arg| Some(Offer::word(format!("--{}", flag.get_long()?), about(flag.get_help())));
        all.extend(flags.filter_map(named));
    }
    all
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn flag<'a>(command: &'a clap::Command, word: &str) -> Option<&'a clap::Arg> {
    let long = word.strip_prefix("--").map(|long| long.split('=').next().unwrap_or(long));
    let short = word.strip_prefix('-').and_then(|short| short.chars().next());
    command.get_arguments().find(|flag| match long {
        Some(long) => flag.get_long() == Some(long) && !word.contains('='),
        None => flag.get_short().is_some() && flag.get_short() == short,
    })
}

fn takes_value(argument: &clap::Arg) -> bool {
    argument.get_action().takes_values()
}

/// What is known of a line when values are looked for.
struct Asked<'a> {
    path: &'a [&'a str],
    /// Values that were typed before.
    values: &'a [&'a str],
    last: &'a Word,
    mode: &'a Mode,
    live: &'a Live,
}

impl Asked<'_> {
    fn values_of(&self, argument: &clap::Arg) -> Vec<Offer> {
        let possible = argument.get_possible_values();
        if !possible.is_empty() {
            let offer =
                |value: &clap::builder::PossibleValue| Offer::word(value.get_name(), about(value.get_help()));
            return possible.iter().map(offer).collect();
        }
        let name = argument.get_id().as_str();
        let help = about(argument.get_help());
        let shown =
            argument.get_value_names().and_then(|names| names.first()).map_or(name, |name| name.as_str());
        let mut all = vec![Offer::placeholder(shown, &help)];
        match (self.path, name) {
            (["configure", "set" | "delete" | "show"], "path") => {
                all.extend(paths(self.last, self.mode, self.live))
            }
            (["configure", "set"], "value") => return self.configured_values(),
            (path, name) => {
                let values = kind_of(path, name).map(|kind| self.live.values(kind)).unwrap_or_default();
                all.extend(values.into_iter().map(|value| Offer::word(value, "")));
            }
        }
        all
    }

    fn configured_values(&self) -> Vec<Offer> {
        let path = grammar::joined(&self.mode.place, self.values.first().copied().unwrap_or_default());
        match edit::shape_of(&path) {
            Ok(Shape::Flag) => listed(&[("true", ""), ("false", "")]),
            Ok(shape) => {
                let mut all = vec![Offer::placeholder("value", shape.expected())];
                all.extend(self.live.values_at(&path).into_iter().map(|value| Offer::word(value, "")));
                all
            }
            Err(_) => Vec::new(),
        }
    }
}

fn paths(last: &Word, mode: &Mode, live: &Live) -> Vec<Offer> {
    let offer = |path: String| {
        let shape = edit::shape_of(&grammar::joined(&mode.place, &path));
        let leads_on = matches!(shape, Ok(Shape::Table(_) | Shape::List(Shape::Table(_))));
        let ending = if leads_on { '.' } else { ' ' };
        Offer { ending, ..Offer::word(path, shape.map_or("", Shape::expected)) }
    };
    live.paths(&mode.place, &last.typed).into_iter().map(offer).collect()
}

fn kind_of(path: &[&str], argument: &str) -> Option<Kind> {
    match (path, argument) {
        (["sessions", "show" | "kill"], "id") | (_, "session") => Some(Kind::Session),
        (["sessions", ..], "user") => Some(Kind::User),
        (["sta", "test"], "name") => Some(Kind::Sta),
        (_, "listener") => Some(Kind::Listener),
        (["tls-test"], "trust") => Some(Kind::Sta),
        (["capture", ..], "name") => Some(Kind::Capture),
        (["capture"], "interface") => Some(Kind::Interface),
        (["forward", ..], "server") => Some(Kind::Server),
        (["bans", "remove"], "prefix") => Some(Kind::Ban),
        (["configure", ..], "back") => Some(Kind::Back),
        (["certificate", ..], "name") => Some(Kind::Certificate),
        (["access", "key", "remove"], "fingerprint") => Some(Kind::Key),
        (["secret", ..], "name") => Some(Kind::Secret),
        (["configure", "load" | "save"], "name") => Some(Kind::Saved),
        (["update", "install"], "what" | "version") => Some(Kind::Version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str, configuring: bool) -> Vec<String> {
        let live = Live::new("/nonexistent".into());
        let mode = Mode { configuring, place: String::new() };
        offers(line, &mode, &live).1.into_iter().map(|offer| offer.word).collect()
    }

    #[test]
    fn commands_are_offered_by_their_beginning_and_only_those_that_may_be_typed() {
        assert!(offered("", false).contains(&"show".to_owned()));
        assert!(!offered("", false).contains(&"connect".to_owned()));
        assert!(!offered("", false).contains(&"shell".to_owned()));
        assert_eq!(offered("sho", false), ["show"]);
        assert_eq!(offered("show ses", false), ["session", "sessions"]);
        assert_eq!(offered("show sessions --e", false), ["--ended"]);
        assert_eq!(offered("xdp ", false), ["drops", "flows", "status", "top"]);
        assert_eq!(offered("log", false), ["logs"]);
        assert_eq!(offered("access ", false), ["key", "list", "password"]);
        assert_eq!(offered("access key add o", false), ["operator"]);
        assert!(offered("access-j", false).is_empty());
        assert_eq!(offered("logs level d", false), ["debug"]);
    }

    #[test]
    fn no_flag_that_names_a_file_is_offered() {
        let flags = offered("config show --", false);
        assert!(flags.contains(&"--json".to_owned()), "{flags:?}");
        assert!(
            !flags.iter().any(|flag| flag == "--file" || flag == "--socket" || flag == "--config"),
            "{flags:?}"
        );
    }

    #[test]
    fn keys_and_their_values_are_offered_in_configure_mode() {
        assert_eq!(offered("set lim", true), ["limits", "<PATH>"]);
        assert_eq!(
            offered("set limits.sessions", true)[..3],
            ["limits.sessions", "limits.sessions_per_source", "limits.sessions_per_user"]
        );
        assert_eq!(offered("set listener.edge.permit_loopback ", true), ["false", "true"]);
        assert_eq!(offered("set log.format ", true), ["json", "text", "<value>"]);
        assert_eq!(offered("set log.level d", true), ["debug", "<value>"]);
        assert_eq!(offered("commit ", true), ["confirm"]);
        assert_eq!(offered("show | co", true), ["compare", "count"]);
        assert!(offered("run show ", true).contains(&"sessions".to_owned()));
        let live = Live::new("/nonexistent".into());
        let mode = Mode { configuring: true, place: String::new() };
        let ending = |line: &str| offers(line, &mode, &live).1.first().unwrap().ending;
        assert_eq!((ending("set limits"), ending("set limits.connections_per")), ('.', ' '));
    }
}
