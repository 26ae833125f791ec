//! `portcullis connect`: a client of this gateway or another, as an SSH ProxyCommand or as a local port.

mod establish;
mod stdio;
mod tls;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use portcullis_proto::host_port::HostPort;
use portcullis_proto::ica_file::IcaFile;
use portcullis_proto::socks5::Credentials;
use portcullis_proto::ticket::TicketString;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::args::{self, Via};
use super::output::{Failure, Outcome, complain};
use super::{Context, read_small, terminal, ticket};
use crate::exit::Exit;
use establish::Destination;

/// Connections that `--listen` serves at a time; more wait in the kernel's queue.
const LOCAL_CONNECTIONS_MAX: usize = 256;
/// How long to wait after a failed accept: descriptors are short and come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Buffer of each direction.
const COPY_BUFFER_BYTES: usize = 64 * 1024;
/// Port in requests whose host is a ticket; gateways take the one that the ticket stands for.
const TICKET_PORT: u16 = 1494;

/// Everything that one connection needs to know.
struct Plan {
    gateway: HostPort,
    tls: Option<tls::Tls>,
    via: Via,
    source: Source,
    credentials: Option<Credentials>,
    timeout: Duration,
}

/// Where a connection's destination comes from.
enum Source {
    Ticket(TicketString),
    /// Read anew for each connection.
    File(std::path::PathBuf),
    /// Run for each connection.
    Command(String),
    Server(HostPort),
}

pub(super) fn run(context: &Context, arguments: args::Connect) -> Outcome {
    let listen = arguments.listen;
    if arguments.insecure {
        context
            .output
            .warn("--insecure trusts any certificate: whoever is on the path can read and change everything");
    }
    let plan = Arc::new(plan(arguments)?);
    let runtime = terminal::runtime()?;
    let outcome = runtime.block_on(async {
        match listen {
            None => through_stdio(&plan).await,
            Some(address) => serve(context, plan, address).await,
        }
    });
    // A read of standard input that will never return must not keep the program.
    runtime.shutdown_background();
    outcome
}

/// What was typed, made whole.
fn plan(arguments: args::Connect) -> Result<Plan, Failure> {
    let stdin_is_payload = arguments.listen.is_none();
    if stdin_is_payload && arguments.ticket.as_deref() == Some("-") {
        let message =
            "standard input carries the connection; use --ticket-file, PORTCULLIS_TICKET or --listen";
        return Err(Failure::new(Exit::Usage, message));
    }
    let (mut gateway, mut via) = (arguments.gateway, arguments.via);
    let source = match (arguments.target, arguments.ticket_file, arguments.ticket_command, arguments.ica) {
        (Some(server), ..) => Source::Server(server),
        (None, Some(path), ..) => Source::File(path),
        (None, None, Some(command), _) => Source::Command(command),
        (None, None, None, Some(path)) => {
            let launch = read_ica(&path)?;
            gateway = gateway.or(Some(launch.gateway));
            via = via.or(Some(launch.via));
            Source::Ticket(launch.ticket)
        }
        (None, None, None, None) if arguments.ticket.is_some() || ticket::in_variable() => {
            Source::Ticket(ticket::given(arguments.ticket.as_deref())?)
        }
        (None, None, None, None) => {
            let message = "say where to: a ticket (--ticket-file, --ticket-command, --ticket, --ica or \
                           PORTCULLIS_TICKET) or a server (HOST:PORT)";
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let gateway =
        gateway.ok_or_else(|| Failure::new(Exit::Usage, "say which gateway: --gateway HOST:PORT"))?;
    let via = via.unwrap_or(Via::Socks5);
    if matches!(via, Via::Cgp | Via::WebsocketCgp) && matches!(source, Source::Server(_)) {
        return Err(Failure::new(
            Exit::Usage,
            "CGP needs a ticket; use --via socks5 or connect for a server",
        ));
    }
    let tls = if arguments.plain {
        None
    } else {
        let name = arguments.server_name.as_deref();
        Some(tls::Tls::new(&gateway, name, arguments.ca.as_deref(), arguments.insecure)?)
    };
    let credentials = match (arguments.proxy_user, arguments.proxy_password_file) {
        (Some(user), Some(path)) => {
            let text = read_small(&path)?;
            let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec());
            Some(Credentials { user: user.into_bytes(), password })
        }
        _ => None,
    };
    Ok(Plan { gateway, tls, via, source, credentials, timeout: arguments.timeout })
}

struct Launch {
    gateway: HostPort,
    via: Via,
    ticket: TicketString,
}

/// Reads ticket and gateway from an ICA file.
fn read_ica(path: &std::path::Path) -> Result<Launch, Failure> {
    let bad = |what: &str| Failure::new(Exit::Data, format!("{}: {what}", path.display()));
    let file = IcaFile::parse(&read_small(path)?).map_err(|faults| {
        let faults = faults.iter().map(|(line, fault)| format!("line {line}: {fault}"));
        bad(&faults.collect::<Vec<_>>().join("; "))
    })?;
    let section = file.sections().find(|section| file.get(section, "Address").is_some());
    let section = section.ok_or_else(|| bad("no section has an `Address`"))?;
    let address = file.get(section, "Address").unwrap_or_default();
    if !TicketString::is_ticket(address) {
        return Err(bad("`Address` is no ticket; this file is for a direct connection"));
    }
    let ticket = ticket::parse(address, &path.display().to_string())?;
    let gateway = file.get(section, "SSLProxyHost").ok_or_else(|| bad("`SSLProxyHost` is missing"))?;
    let gateway = HostPort::parse_or_port(gateway, Some(443)).map_err(|error| bad(&error.to_string()))?;
    let cgp = file.get(section, "CGPSecurityTicket").is_some_and(|value| value.eq_ignore_ascii_case("on"));
    Ok(Launch { gateway, via: if cgp { Via::Cgp } else { Via::Socks5 }, ticket })
}

impl Plan {
    /// A connection to where the plan leads, ready for the program's own bytes.
    async fn open(&self) -> Result<establish::Opened, Failure> {
        let destination = self.destination().await?;
        let opening = establish::open(self, &destination);
        tokio::time::timeout(self.timeout, opening).await.unwrap_or_else(|_| {
            let message = format!("{} did not answer within {:?}", self.gateway, self.timeout);
            Err(Failure::new(Exit::Unavailable, message))
        })
    }

    async fn destination(&self) -> Result<Destination, Failure> {
        Ok(match &self.source {
            Source::Ticket(ticket) => Destination::Ticket(ticket.clone()),
            Source::Server(server) => Destination::Server(server.clone()),
            Source::File(path) => Destination::Ticket(ticket::from_file(path)?),
            Source::Command(command) => Destination::Ticket(self.ask(command).await?),
        })
    }

    /// Runs the ticket command.
    async fn ask(&self, command: &str) -> Result<TicketString, Failure> {
        let failed = |what: String| Failure::new(Exit::Data, format!("the ticket command {what}"));
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = shell.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
        let output = tokio::time::timeout(self.timeout, child.wait_with_output()).await;
        let output = output.map_err(|_| failed(format!("took longer than {:?}", self.timeout)))?;
        let output = output.map_err(|error| failed(format!("cannot be read: {error}")))?;
        if !output.status.success() {
            return Err(failed(format!("failed: {}", output.status)));
        }
        let text = Zeroizing::new(output.stdout);
        ticket::parse(&String::from_utf8_lossy(&text), "what the ticket command printed")
    }
}

async fn through_stdio(plan: &Plan) -> Outcome {
    let opened = plan.open().await?;
    let (stdio, local_gone) = stdio::open();
    match carry(stdio, opened, plan.via).await {
        // Whoever read our output has what it wanted.
        Err(_) if local_gone.get() => Ok(Exit::Ok),
        outcome => outcome.map(|()| Exit::Ok),
    }
}

/// Carries bytes both ways until both sides have said that they are done.
async fn carry(
    mut local: impl AsyncRead + AsyncWrite + Unpin,
    mut opened: establish::Opened,
    via: Via,
) -> Result<(), Failure> {
    let (size, remote) = (COPY_BUFFER_BYTES, &mut opened.stream);
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut local, remote, size, size).await;
    // After an error, what has arrived is still on its way to the reader; whether it takes it is its own affair.
    drop(local.flush().await);
    if let Some(failure) = opened.refusal() {
        return Err(failure);
    }
    match copied {
        Ok((_, 0)) if matches!(via, Via::Cgp | Via::WebsocketCgp) => {
            let message = "the gateway refused, or the server had nothing to say: not a byte came back, and CGP \
                           gives no reason; the ticket may not be valid any more";
            Err(Failure::new(Exit::Refused, message))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(broken(&error)),
    }
}

/// A connection that ended otherwise than by both sides saying so.
fn broken(error: &io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the gateway ended the connection without the TLS farewell; bytes may be missing".to_owned()
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the gateway cut the connection".to_owned()
        }
        _ => format!("the connection broke: {error}"),
    };
    Failure::new(Exit::Unavailable, message)
}

async fn serve(context: &Context, plan: Arc<Plan>, address: SocketAddr) -> Outcome {
    let failed = |error: io::Error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Unavailable,
        };
        Failure::new(exit, format!("cannot listen on {address}: {error}"))
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    if !bound.ip().is_loopback() {
        context.output.warn(format_args!("{bound} can be reached by others, who then connect in your name"));
    }
    if context.output.json {
        context.output.json(&serde_json::json!({"listening": bound}))?;
    } else {
        context.output.note(format_args!("listening on {bound}; Ctrl-C ends"));
    }
    let handler = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error.to_string()));
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    tokio::select! {
        () = accept_all(&listener, plan) => Ok(Exit::Ok),
        _ = interrupt.recv() => Ok(Exit::Ok),
        _ = terminate.recv() => Ok(Exit::Ok),
    }
}

async fn accept_all(listener: &TcpListener, plan: Arc<Plan>) {
    let permits = Arc::new(Semaphore::new(LOCAL_CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let plan = Arc::clone(&plan);
                tokio::spawn(async move {
                    if let Err(failure) = local(stream, &plan).await {
                        complain(&format!("portcullis: connection from {peer}: {}", failure.message));
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                complain(&format!("portcullis: cannot accept: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn local(stream: TcpStream, plan: &Plan) -> Result<(), Failure> {
    let opened = plan.open().await?;
    establish::tune(&stream);
    carry(stream, opened, plan.via).await
}
