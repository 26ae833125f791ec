//! `portcullis shell`: what an operator sees who logs in over SSH, and what `ssh gateway COMMAND` runs.
//!
//! It is the `portcullis` command with operators' words, completion, help and pages; every line goes through the
//! grammar of the program, and the daemon decides who may do what. There is no way from here to a Unix shell: no pager,
//! editor or other program is ever started, and nothing that is typed names a file.

mod choices;
mod complete;
mod editor;
mod grammar;
mod live;
mod pager;
mod words;

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use clap::Parser as _;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Cli, Global, Shell as Arguments};
use super::output::{Failure, Outcome, Output, complain};
use super::{Context, terminal};
use crate::ctl::protocol::{Command as Request, Me};
use crate::exit::Exit;
use complete::Mode;
use editor::{Editor, Typed};
use words::{Filter, Line};

/// The program's name as a login shell, which sshd starts with `-c COMMAND` or nothing.
pub(super) const LOGIN_NAME: &str = "portcullis-shell";

pub(super) fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let runtime = terminal::runtime()?;
    let entered = runtime.enter();
    // With handlers Ctrl-C ends what a command shows and not the shell; they stay for the life of the process.
    for kind in [SignalKind::interrupt(), SignalKind::quit()] {
        drop(signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?);
    }
    drop(entered);
    let mut shell = Shell::new(context);
    // A forced command (sshd_config(5), ForceCommand) is told so what the client wanted.
    let forced = || Some(std::env::var_os("SSH_ORIGINAL_COMMAND")?.to_string_lossy().into_owned());
    if let Some(line) = arguments.command.clone().or_else(forced) {
        return Ok(shell.execute(&line).exit());
    }
    if !io::stdin().is_terminal() {
        return shell.read_lines();
    }
    shell.interactive = true;
    shell.converse(context)
}

/// What comes after a line.
enum Flow {
    Next(Exit),
    Leave,
}

impl Flow {
    fn exit(self) -> Exit {
        match self {
            Self::Next(exit) => exit,
            Self::Leave => Exit::Ok,
        }
    }
}

struct Shell {
    global: Global,
    mode: Mode,
    interactive: bool,
    colour: bool,
    pages: bool,
}

impl Shell {
    fn new(context: &Context) -> Self {
        Self {
            global: context.global.clone(),
            mode: Mode::default(),
            interactive: false,
            colour: !context.global.no_color,
            pages: true,
        }
    }

    /// Lines from a file or a pipe, until one fails.
    fn read_lines(&mut self) -> Outcome {
        let most = u64::try_from(words::LINE_MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        loop {
            let mut line = String::new();
            let read = io::stdin().lock().take(most).read_line(&mut line);
            match read
                .map_err(|error| Failure::new(Exit::Data, format!("cannot read standard input: {error}")))?
            {
                0 => return Ok(Exit::Ok),
                _ => match self.execute(line.trim_end()) {
                    Flow::Next(Exit::Ok) => {}
                    Flow::Next(exit) => return Ok(exit),
                    Flow::Leave => return Ok(Exit::Ok),
                },
            }
        }
    }

    fn converse(&mut self, context: &Context) -> Outcome {
        let me = context.call::<Me>(&Request::WhoAmI {});
        let (name, mark) = match &me {
            Ok(me) => {
                (format!("{}@{}", me.user, me.host), if me.role == "administrator" { '#' } else { '>' })
            }
            Err(failure) => {
                complain(&format!("portcullis: {}", failure.message));
                ("gateway".to_owned(), '>')
            }
        };
        if let Ok(me) = &me {
            let text = format!(
                "Portcullis {}. You are {} ({}). `?` helps.",
                env!("CARGO_PKG_VERSION"),
                me.user,
                me.role
            );
            context.output.text(&text)?;
        }
        let mut editor = Editor::new(context.socket(), self.colour)?;
        let mut begun = String::new();
        loop {
            let prompt = self.prompt(&name, mark);
            match editor.read(&prompt, &begun, &self.mode)? {
                Typed::Line(line) => {
                    begun.clear();
                    if let Flow::Leave = self.execute(&line) {
                        return Ok(Exit::Ok);
                    }
                }
                Typed::Help(line) => {
                    self.help(&editor, &line)?;
                    begun = line;
                }
                Typed::Interrupted => begun.clear(),
                Typed::End if self.mode.configuring => {
                    self.leave_configuring();
                    begun.clear();
                }
                Typed::End => return Ok(Exit::Ok),
            }
        }
    }

    fn prompt(&self, name: &str, mark: char) -> String {
        match (self.mode.configuring, self.mode.place.as_str()) {
            (false, _) => format!("{name}{mark} "),
            (true, "") => format!("{name}[configure]{mark} "),
            (true, place) => format!("{name}[configure {place}]{mark} "),
        }
    }

    fn help(&self, editor: &Editor, line: &str) -> Result<(), Failure> {
        let offers = editor.offers(line, &self.mode);
        let output = self.output(false);
        if offers.is_empty() {
            return output.text("  nothing more: Enter does it");
        }
        let mut table = super::table::Table::new().column("").column("").wide("");
        for offer in offers {
            table.row([String::new(), offer.word, offer.about], &[(1, super::table::Paint::Title)]);
        }
        self.show(&table.render(output.width(), output.colour), &[], &output)
    }

    /// Does what a line says. What fails is told, and the shell goes on.
    fn execute(&mut self, typed: &str) -> Flow {
        let (done, json) = match words::line(typed) {
            Ok(line) if line.words.is_empty() => return Flow::Next(Exit::Ok),
            Ok(line) => (self.obey(&line), line.words.iter().any(|word| word.text == "--json")),
            Err(why) => (Err(Failure::new(Exit::Usage, why)), false),
        };
        done.unwrap_or_else(|failure| {
            self.output(json).failure(&failure);
            Flow::Next(failure.exit)
        })
    }

    fn obey(&mut self, line: &Line) -> Result<Flow, Failure> {
        let texts: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
        let usage = |why: String| Failure::new(Exit::Usage, why);
        match texts.as_slice() {
            ["exit" | "quit" | "logout" | "end"] if self.mode.configuring => self.leave_configuring(),
            ["exit" | "quit" | "logout" | "end"] => return Ok(Flow::Leave),
            ["help" | "?"] => {
                self.output(false).text("`?` shows what may come next, Tab completes it; exit leaves")?
            }
            ["terminal", what, switch] => self.set_terminal(what, switch).map_err(usage)?,
            ["configure"] => self.mode = Mode { configuring: true, place: String::new() },
            ["top"] if self.mode.configuring => self.mode.place.clear(),
            ["up"] if self.mode.configuring => self.up().map_err(usage)?,
            ["edit", _] if self.mode.configuring => {
                let typed = line.words.get(1).map(|word| word.typed.as_str()).unwrap_or_default();
                self.edit(typed).map_err(usage)?;
            }
            ["run", ..] if self.mode.configuring => {
                let rest = line.words.get(1..).unwrap_or_default();
                let words = grammar::resolve(rest, false, "").map_err(usage)?;
                return self.dispatch(&words, &line.filters);
            }
            ["show"] if self.mode.configuring && line.filters.contains(&Filter::Compare) => {
                return self.dispatch(&["configure".to_owned(), "compare".to_owned()], &line.filters);
            }
            _ => {
                let words =
                    grammar::resolve(&line.words, self.mode.configuring, &self.mode.place).map_err(usage)?;
                return self.dispatch(&words, &line.filters);
            }
        }
        Ok(Flow::Next(Exit::Ok))
    }

    fn leave_configuring(&mut self) {
        self.mode = Mode::default();
    }

    fn edit(&mut self, path: &str) -> Result<(), String> {
        let place = grammar::joined(&self.mode.place, path);
        match crate::store::edit::shape_of(&place).map_err(|error| error.to_string())? {
            crate::config::schema::Shape::Table(_) => self.mode.place = place,
            shape => {
                return Err(format!("`{place}` holds {}: only tables can be gone into", shape.expected()));
            }
        }
        Ok(())
    }

    /// Back by one table: names and numbers belong to the key before them.
    fn up(&mut self) -> Result<(), String> {
        use crate::config::path::{quoted, words};
        let mut words = words(&self.mode.place).map_err(|error| error.to_string())?;
        loop {
            words.pop();
            let place = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(".");
            let shape = crate::store::edit::shape_of(&place).map_err(|error| error.to_string())?;
            if matches!(shape, crate::config::schema::Shape::Table(_)) {
                self.mode.place = place;
                return Ok(());
            }
        }
    }

    fn set_terminal(&mut self, what: &str, switch: &str) -> Result<(), String> {
        let on = match switch {
            "on" => true,
            "off" => false,
            _ => return Err("write on or off".to_owned()),
        };
        match what {
            "colour" | "color" => self.colour = on,
            "pager" => self.pages = on,
            _ => return Err("write terminal colour on, or terminal pager off".to_owned()),
        }
        Ok(())
    }

    fn output(&self, json: bool) -> Output {
        Output::new(json || self.global.json, !self.colour)
    }

    /// Runs a command of the program.
    fn dispatch(&self, words: &[String], filters: &[Filter]) -> Result<Flow, Failure> {
        let arguments = std::iter::once("portcullis".to_owned()).chain(words.iter().cloned());
        let cli = match Cli::try_parse_from(arguments) {
            Ok(cli) => cli,
            Err(error) => return self.explain(&error, words.iter().any(|word| word == "--json")),
        };
        let global = Global {
            socket: self.global.socket.clone(),
            config: self.global.config.clone(),
            json: cli.global.json || self.global.json,
            no_color: cli.global.no_color || !self.colour,
        };
        let collects = (self.interactive || !filters.is_empty()) && !grammar::is_live(words);
        let mut output = Output::new(global.json, global.no_color || !filters.is_empty());
        if collects {
            output = output.collecting();
        }
        let context = Context { output, global };
        let outcome = super::run(&context, cli.command);
        let collected = context.output.collected();
        if collects {
            self.show(&collected, filters, &context.output)?;
        }
        Ok(Flow::Next(outcome?))
    }

    fn explain(&self, error: &clap::Error, json: bool) -> Result<Flow, Failure> {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                self.show(&error.render().to_string(), &[], &self.output(false))?;
                Ok(Flow::Next(Exit::Ok))
            }
            _ if json => Err(super::usage_failure(error)),
            _ => {
                complain(error.render().to_string().trim_end());
                Ok(Flow::Next(Exit::Usage))
            }
        }
    }

    /// Shows a text, in pages where it is longer than the terminal.
    fn show(&self, text: &str, filters: &[Filter], output: &Output) -> Result<(), Failure> {
        let text = if filters.is_empty() { text.to_owned() } else { words::filtered(text, filters) };
        let fits = text.lines().count() < output.height();
        if self.interactive && self.pages && output.terminal && !fits && !filters.contains(&Filter::NoMore) {
            return Ok(pager::show(&text, output.height(), output.colour)?);
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}
