//! The `portcullis` command: one module per group of commands, and here what they share.

mod access;
pub mod args;
mod audit;
mod bans;
mod capture;
mod certificate;
mod config;
mod configure;
mod connect;
mod describe;
mod forward;
mod high_availability;
mod ica;
mod interfaces;
mod log;
mod machine;
mod output;
mod ports;
mod probe;
mod secret;
mod sessions;
mod shell;
mod sta;
mod status;
mod support;
mod support_shell;
mod system;
mod table;
mod terminal;
mod ticket;
mod tls_test;
mod update;
mod version;
mod watch;
mod xdp;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use serde::de::DeserializeOwned;

use crate::ctl::client::Client;
use crate::ctl::protocol::{Command as Request, Confirmed, LogLevel, MachineAction, MetricsText, Reloaded};
use crate::exit::Exit;
use args::{Cli, Command, Config, Global, Logs, Reload, Support};
use output::{Failure, Outcome, Output};

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let context = Context { output: Output::new(cli.global.json, cli.global.no_color), global: cli.global };
    match run(&context, cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            context.output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Under its name as a login shell the program is the operator's command line, whatever else is typed; sshd puts `-`
/// before that name where nobody asks for a single command.
fn arguments(typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = typed.collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()?.to_str().map(str::to_owned));
    if name.is_some_and(|name| name.trim_start_matches('-') == shell::LOGIN_NAME) {
        arguments.insert(1, "shell".into());
    }
    arguments
}

/// Help and version are answers; everything else that clap says is a wrong command line.
fn usage(error: &clap::Error) -> Exit {
    let exit = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Usage,
    };
    if exit != Exit::Ok && std::env::args_os().any(|argument| argument == "--json") {
        Output::new(true, true).failure(&usage_failure(error));
        return exit;
    }
    // Nobody is left to be told when it cannot be printed.
    drop(error.print());
    exit
}

/// A wrong command line, in words.
fn usage_failure(error: &clap::Error) -> Failure {
    Failure::new(Exit::Usage, error.render().to_string().trim_end())
}

/// What every command may use.
#[derive(Debug)]
struct Context {
    output: Output,
    global: Global,
}

impl Context {
    /// The configuration file: as given, or the usual one.
    fn config_path(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| crate::config::PATH_DEFAULT.into())
    }

    /// The control socket: as given, or that of the configuration where it can be read, or the usual one.
    fn socket(&self) -> PathBuf {
        let configured = || crate::config::load(&self.config_path()).ok().map(|config| config.control.socket);
        self.global.socket.clone().or_else(configured).unwrap_or_else(|| args::SOCKET_DEFAULT.into())
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket())?)
    }

    fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        Ok(self.client()?.call(request)?)
    }
}

fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Status => status::run(context),
        Command::Version => version::run(context),
        Command::System => system::run(context),
        Command::Interfaces => interfaces::run(context),
        Command::HighAvailability => high_availability::show(context),
        Command::Sessions(command) => sessions::run(context, command),
        Command::Sta(command) => sta::run(context, command),
        Command::Ticket(command) => ticket::run(context, command),
        Command::Connect(arguments) => connect::run(context, arguments),
        Command::Ica(arguments) => ica::run(context, &arguments),
        Command::Config(Config::Show { file }) => config::show(context, file.as_deref()),
        Command::Config(Config::Push(push)) => high_availability::push(context, &push),
        Command::Config(Config::HashPassword { user }) => config::hash_password(context, user.as_deref()),
        Command::Config(Config::Check(check)) | Command::Check(check) => {
            config::check(context, check.file.as_deref())
        }
        Command::Configure(command) => configure::run(context, command),
        Command::Audit(arguments) => audit::run(context, &arguments),
        Command::Reload { command: None } => reload(context),
        Command::Reload { command: Some(Reload::Confirm) } => reload_confirm(context),
        Command::Reboot => machine::order(context, MachineAction::Reboot),
        Command::Shutdown => machine::order(context, MachineAction::PowerOff),
        Command::Update(command) => update::run(context, command),
        Command::UpdateJob { prepare, ended } => update::job(prepare, ended),
        Command::SettingsJob => machine::settings_job(),
        Command::Resolve { name } => probe::resolve(context, &name),
        Command::Ping(arguments) => probe::ping(context, &arguments),
        Command::Trace(arguments) => probe::trace(context, &arguments),
        Command::TlsTest(arguments) => tls_test::run(context, &arguments),
        Command::Capture(arguments) => capture::run(context, &arguments),
        Command::Health(arguments) => support::health(context, &arguments),
        Command::Users => support::users(context),
        Command::Support(Support::Bundle) => support::bundle(context),
        Command::Support(Support::Shell(arguments)) => support_shell::open(context, &arguments),
        Command::SupportJob => support_shell::job(),
        Command::FactoryReset(arguments) => machine::factory_reset(context, &arguments),
        Command::Metrics => metrics(context),
        Command::Bans(command) => bans::run(context, command),
        Command::Certificate(command) => certificate::run(context, command),
        Command::Secret(command) => secret::run(context, command),
        Command::Access(command) => access::run(context, command),
        Command::AccessJob(order) => access::job(order),
        Command::Xdp(command) => xdp::run(context, command),
        Command::Forward(command) => forward::run(context, command),
        Command::Ports(command) => ports::run(context, command),
        Command::Drain => status::drain(context, true),
        Command::Undrain => status::drain(context, false),
        Command::Logs(Logs::Level { level }) => log_level(context, level),
        Command::Logs(Logs::Show(arguments)) => log::show(context, &arguments),
        Command::Shell(arguments) => shell::run(context, &arguments),
        Command::Completions { shell } => describe::completions(context, shell),
        Command::Man { out } => describe::man(context, out.as_deref()),
    }
}

fn reload(context: &Context) -> Outcome {
    let done: Reloaded = context.call(&Request::Reload {})?;
    let list = |title: &str, items: &[String]| {
        items.iter().fold(format!("{title}:"), |text, item| text + "\n  " + item)
    };
    let text = match (done.live.is_empty(), done.restart.is_empty()) {
        (true, true) => "nothing has changed".into(),
        (false, true) => list("in force now", &done.live),
        (true, false) => list("needs a restart of portcullisd", &done.restart),
        (false, false) => {
            list("in force now", &done.live) + "\n" + &list("needs a restart of portcullisd", &done.restart)
        }
    };
    let text = match done.confirm_within_seconds {
        Some(seconds) => format!(
            "{text}\nThe changed policy of [xdp] is taken back in {seconds} seconds unless it is confirmed: \
             `portcullis reload confirm`"
        ),
        None => text,
    };
    context.output.value_or_text(&done, &text)?;
    Ok(Exit::Ok)
}

fn reload_confirm(context: &Context) -> Outcome {
    let done: Confirmed = context.call(&Request::ReloadConfirm {})?;
    context.output.value_or_text(&done, "what was on trial stays in force")?;
    Ok(Exit::Ok)
}

fn metrics(context: &Context) -> Outcome {
    let metrics: MetricsText = context.call(&Request::Metrics {})?;
    context.output.value_or_text(&metrics, &metrics.text)?;
    Ok(Exit::Ok)
}

fn log_level(context: &Context, level: Option<args::Level>) -> Outcome {
    let level = level.map(|level| level.as_str().to_owned());
    let now: LogLevel = context.call(&Request::LogLevel { level })?;
    context.output.value_or_text(&now, &now.level)?;
    Ok(Exit::Ok)
}

/// Most bytes of a file that holds a ticket or a password.
const SMALL_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Reads a small text file.
fn read_small(path: &Path) -> Result<zeroize::Zeroizing<String>, Failure> {
    use std::io::Read as _;
    let mut text = zeroize::Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(SMALL_FILE_MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| Failure::file("read", path, &error))?;
    Ok(text)
}
