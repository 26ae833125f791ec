//! Line editing: rustyline, with Tab for completion, `?` for help, and nothing that leads out of the shell.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Event, EventContext, EventHandler,
    Helper, KeyEvent, RepeatCount,
};

use super::complete::{self, Mode, Offer};
use super::live::Live;
use super::words::is_quoted;
use crate::cli::output::Failure;
use crate::exit::Exit;

/// Lines that are remembered, in memory only.
const HISTORY_MAX: usize = 500;
/// Lines with these words hold secrets and are not remembered.
const SECRET: &str = "ticket";

/// What came of a line.
#[derive(Debug)]
pub(super) enum Typed {
    Line(String),
    /// `?` was pressed behind this.
    Help(String),
    Interrupted,
    End,
}

#[derive(Debug)]
pub(super) struct Editor {
    inner: rustyline::Editor<Assistant, MemHistory>,
    asked: Arc<AtomicBool>,
}

impl Editor {
    pub(super) fn new(socket: PathBuf, colour: bool) -> Result<Self, Failure> {
        let failed =
            |error: ReadlineError| Failure::new(Exit::Internal, format!("cannot edit lines: {error}"));
        let colour = if colour { ColorMode::Enabled } else { ColorMode::Disabled };
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(failed)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .color_mode(colour)
            .build();
        let history = MemHistory::with_config(&config);
        let mut inner = rustyline::Editor::with_history(config, history).map_err(failed)?;
        inner.set_helper(Some(Assistant { live: Live::new(socket), mode: Mode::default() }));
        let asked = Arc::new(AtomicBool::new(false));
        let help = Box::new(Asks(Arc::clone(&asked)));
        inner.bind_sequence(KeyEvent::from('?'), EventHandler::Conditional(help));
        // There is no shell to go back to.
        inner.bind_sequence(KeyEvent::ctrl('Z'), EventHandler::Simple(Cmd::Noop));
        Ok(Self { inner, asked })
    }

    /// Reads a line that begins with `begun`.
    pub(super) fn read(&mut self, prompt: &str, begun: &str, mode: &Mode) -> Result<Typed, Failure> {
        if let Some(assistant) = self.inner.helper_mut() {
            assistant.mode = mode.clone();
        }
        self.asked.store(false, Ordering::Relaxed);
        match self.inner.readline_with_initial(prompt, (begun, "")) {
            Ok(line) if self.asked.load(Ordering::Relaxed) => Ok(Typed::Help(line)),
            Ok(line) => {
                if !line.trim().is_empty() && !line.contains(SECRET) {
                    // A history that is full forgets by itself; there is nothing else to fail.
                    self.inner.add_history_entry(line.as_str()).ok();
                }
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(Failure::new(Exit::Data, format!("cannot read from the terminal: {error}"))),
        }
    }

    pub(super) fn offers(&self, line: &str, mode: &Mode) -> Vec<Offer> {
        self.inner
            .helper()
            .map(|assistant| complete::offers(line, mode, &assistant.live).1)
            .unwrap_or_default()
    }
}

/// `?` asks for help, unless it stands in quotes.
struct Asks(Arc<AtomicBool>);

impl ConditionalEventHandler for Asks {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let before = context.line().get(..context.pos()).unwrap_or_default();
        if is_quoted(before) {
            return None;
        }
        self.0.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}

#[derive(Debug)]
struct Assistant {
    live: Live,
    mode: Mode,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..pos).unwrap_or_default();
        let (typed, offers) = complete::offers(before, &self.mode, &self.live);
        let literal: Vec<Offer> = offers.into_iter().filter(|offer| offer.literal).collect();
        let alone = literal.len() == 1;
        let pair = |offer: Offer| {
            let mut replacement = offer.word.clone();
            if alone {
                replacement.push(offer.ending);
            }
            Pair { display: offer.word, replacement }
        };
        Ok((pos.saturating_sub(typed), literal.into_iter().map(pair).collect()))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Helper for Assistant {}
