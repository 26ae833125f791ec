//! One connection from its first decrypted byte to the relay, without I/O.
//!
//! News comes in by `handle_*`, work goes out by [`Tunnel::poll_command`]: after each `handle_*`, drain it. The
//! private state is an enum of waits, and each variant holds only what that wait needs. The tunnel reads from the
//! client only while [`Tunnel::wants_bytes`]; so its buffer is bounded, and back-pressure reaches the client while
//! the authority or the server is slow. Once it says [`Command::Relay`], bytes no longer pass through it.

mod http;
mod request;
mod server;
mod socks;

use std::collections::VecDeque;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use portcullis_proto::host_port::HostPort;
use portcullis_proto::http_connect::ConnectTarget;
use portcullis_proto::socks5;
use portcullis_proto::ticket::Ticket;
use portcullis_proto::websocket::{self, Event, Opcode};

use crate::answer::TicketAnswer;
use crate::command::{Command, Framing, Relay};
use crate::deny::Deny;
use crate::limits::SETUP_INPUT_MAX_BYTES;
use crate::policy::Permit;
use crate::profile::{Kind, Profile};
use crate::session::Protocol;
use crate::ticket_store::TicketData;

/// RFC 6455 §7.4.1: normal closure.
const CLOSE_NORMAL: u16 = 1000;

/// Why no server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    Refused,
    Unreachable,
    Timeout,
    /// This machine has no descriptor or port left.
    Exhausted,
    /// Whoever answered could not prove to be the server.
    Untrusted,
    /// The server and the gateway did not come to terms about TLS.
    Tls,
}

/// Why a name gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResolveError {
    #[error("the name has no address")]
    NotFound,
    #[error("no name server answered in time")]
    Timeout,
    #[error("the name servers failed")]
    Failed,
    /// Our own queue is full.
    #[error("too many names are being resolved")]
    Overloaded,
}

/// How the client speaks inside its framing, which decides the words of every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Socks,
    Cgp,
    Connect,
    Tls,
    /// Nothing that the gateway understands.
    Forward,
}

/// What the client asked for and in which speech; the ticket's user and application once they are known.
#[derive(Clone, Debug)]
struct Wish {
    speech: Speech,
    user: Option<String>,
    application: Option<String>,
    target: Option<HostPort>,
}

#[derive(Debug)]
enum State {
    /// What is it? The instant: when an ambiguous beginning is taken for what it most likely is.
    FirstBytes {
        settle: Option<Instant>,
    },
    SocksGreeting,
    SocksCredentials,
    SocksVerify {
        user: String,
    },
    SocksRequest {
        user: Option<String>,
    },
    CgpTicket {
        settle: Option<Instant>,
    },
    HttpHead,
    ConnectVerify {
        target: ConnectTarget,
        user: String,
    },
    Redeem {
        wish: Wish,
        second: Option<Ticket>,
        refused: bool,
    },
    Resolve {
        wish: Wish,
        target: HostPort,
    },
    Admit {
        wish: Wish,
        permit: Permit,
    },
    Dial {
        wish: Wish,
    },
    Done,
}

/// One connection of one client. See the module's documentation for the contract.
#[derive(Debug)]
pub struct Tunnel {
    profile: Arc<Profile>,
    source: SocketAddr,
    state: State,
    framing: Framing,
    /// Bytes of the client as they came, where a framing must be taken off first.
    undecoded: Vec<u8>,
    /// Bytes of the client without framing that are not yet consumed.
    input: Vec<u8>,
    deadline: Instant,
    commands: VecDeque<Command>,
}

impl Tunnel {
    /// Begins a connection; an `ssl-relay` asks for its server at once.
    #[must_use]
    pub fn new(profile: Arc<Profile>, source: SocketAddr, now: Instant) -> Self {
        let mut tunnel = Self::at_first_bytes(profile, source, now);
        if tunnel.profile.kind == Kind::SslRelay {
            tunnel.seek_fixed_server(now);
        }
        tunnel
    }

    /// Begins a connection of a `forward` listener, whose servers were chosen already, the best first.
    #[must_use]
    pub fn forward(profile: Arc<Profile>, source: SocketAddr, servers: &[SocketAddr], now: Instant) -> Self {
        let mut tunnel = Self::at_first_bytes(profile, source, now);
        tunnel.seek_chosen_servers(servers, now);
        tunnel
    }

    fn at_first_bytes(profile: Arc<Profile>, source: SocketAddr, now: Instant) -> Self {
        let deadline = now.checked_add(profile.limits.first_bytes_timeout).unwrap_or(now);
        Self {
            profile,
            source,
            state: State::FirstBytes { settle: None },
            framing: Framing::Direct,
            undecoded: Vec::new(),
            input: Vec::new(),
            deadline,
            commands: VecDeque::new(),
        }
    }

    /// Whether the tunnel waits for bytes of the client.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.commands.is_empty()
            && matches!(
                self.state,
                State::FirstBytes { .. }
                    | State::SocksGreeting
                    | State::SocksCredentials
                    | State::SocksRequest { .. }
                    | State::CgpTicket { .. }
                    | State::HttpHead
            )
    }

    /// Bytes came from the client. To be called only while [`Self::wants_bytes`].
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        match &self.framing {
            Framing::Direct => self.input.extend_from_slice(bytes),
            Framing::WebSocket(_) => {
                self.undecoded.extend_from_slice(bytes);
                self.unframe();
            }
        }
        self.advance(now);
    }

    /// The client will send no more before it has asked for anything: nobody is left to refuse.
    pub fn handle_end_of_input(&mut self) {
        if self.wants_bytes() {
            self.finish(None);
        }
    }

    /// An authority answered [`Command::Redeem`].
    pub fn handle_ticket(&mut self, answer: TicketAnswer, now: Instant) {
        self.on_ticket(answer, now);
    }

    /// A password was checked for [`Command::Verify`]; `None`: nobody had time to check it.
    pub fn handle_verified(&mut self, answer: Option<bool>, now: Instant) {
        let genuine = answer.unwrap_or(false);
        let reason = if answer.is_some() { Deny::CredentialsWrong } else { Deny::Overloaded };
        if let State::SocksVerify { user } = &mut self.state {
            let user = mem::take(user);
            self.reply(&socks5::credentials_status(genuine));
            if genuine {
                self.state = State::SocksRequest { user: Some(user) };
                self.advance(now);
            } else {
                self.finish(Some(reason));
            }
        } else if let State::ConnectVerify { target, user } = &mut self.state {
            let (target, user) = (target.clone(), mem::take(user));
            if genuine {
                self.connect_to(target, Some(user), now);
            } else {
                self.refuse_http(reason);
            }
        }
    }

    /// A name was looked up for [`Command::Resolve`].
    pub fn handle_resolved(&mut self, answer: Result<Vec<IpAddr>, ResolveError>, now: Instant) {
        self.on_resolved(answer, now);
    }

    /// The session table answered [`Command::Admit`].
    pub fn handle_admitted(&mut self, answer: Result<(), Deny>) {
        self.on_admitted(answer);
    }

    /// A server answered [`Command::Dial`], or none did.
    pub fn handle_dialed(&mut self, result: Result<(), DialError>) {
        self.on_dialed(result);
    }

    /// The instant of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        let expired = self.deadline <= now;
        match &mut self.state {
            State::FirstBytes { settle } | State::CgpTicket { settle } if !expired => {
                *settle = None;
                self.settle(now);
            }
            State::FirstBytes { .. }
            | State::SocksGreeting
            | State::SocksCredentials
            | State::CgpTicket { .. } => {
                self.finish(Some(Deny::SlowRequest));
            }
            State::HttpHead => self.refuse_http(Deny::SlowRequest),
            State::SocksRequest { .. } => self.refuse(Speech::Socks, Deny::SlowRequest),
            State::SocksVerify { .. } | State::ConnectVerify { .. } => self.finish(Some(Deny::Overloaded)),
            State::Redeem { wish, .. } => {
                let speech = wish.speech;
                self.refuse(speech, Deny::AuthorityDown);
            }
            State::Resolve { wish, .. } | State::Admit { wish, .. } | State::Dial { wish } => {
                let speech = wish.speech;
                self.refuse(speech, Deny::ServerTimeout);
            }
            State::Done => {}
        }
    }

    /// What is to be done next; `None` until more news comes in.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if matches!(self.state, State::Done) {
            return None;
        }
        if let State::FirstBytes { settle: Some(settle) } | State::CgpTicket { settle: Some(settle) } =
            self.state
        {
            return Some(settle.min(self.deadline));
        }
        Some(self.deadline)
    }

    /// The protocol of the session in records and metrics.
    fn protocol(&self, speech: Speech) -> Protocol {
        match (&self.framing, speech) {
            (Framing::Direct, Speech::Socks) => Protocol::Socks,
            (Framing::Direct, Speech::Cgp) => Protocol::Cgp,
            (Framing::WebSocket(_), Speech::Cgp) => Protocol::WebSocketCgp,
            (Framing::WebSocket(_), Speech::Socks | Speech::Connect | Speech::Tls | Speech::Forward) => {
                Protocol::WebSocketSocks
            }
            (Framing::Direct, Speech::Connect) => Protocol::Connect,
            (Framing::Direct, Speech::Tls) => Protocol::Tls,
            (Framing::Direct, Speech::Forward) => Protocol::Forward,
        }
    }

    /// Sends bytes to the client in its framing.
    fn reply(&mut self, bytes: &[u8]) {
        let bytes = match self.framing {
            Framing::Direct => bytes.to_vec(),
            Framing::WebSocket(_) => {
                let head = websocket::frame_header(Opcode::Binary, bytes.len(), None);
                [head.as_ref(), bytes].concat()
            }
        };
        self.commands.push_back(Command::Reply { bytes });
    }

    /// Takes WebSocket framing off and answers control frames.
    fn unframe(&mut self) {
        let Framing::WebSocket(decoder) = &mut self.framing else { return };
        let mut consumed = 0;
        loop {
            let rest = self.undecoded.get_mut(consumed..).unwrap_or_default();
            match decoder.decode(rest) {
                Ok((used, event)) => {
                    match event {
                        Some(Event::Data(range)) => {
                            self.input.extend_from_slice(rest.get(range).unwrap_or_default());
                        }
                        Some(Event::Ping(payload)) => {
                            self.commands.push_back(Command::Reply { bytes: websocket::pong(&payload) });
                        }
                        Some(Event::Pong) => {}
                        Some(Event::Close(code)) => {
                            let code = code.unwrap_or(CLOSE_NORMAL);
                            self.commands.push_back(Command::Reply { bytes: websocket::close_frame(code) });
                            self.finish(None);
                            return;
                        }
                        None => {
                            consumed = consumed.saturating_add(used);
                            break;
                        }
                    }
                    consumed = consumed.saturating_add(used);
                }
                Err(violation) => {
                    let bytes = websocket::close_frame(violation.close_code());
                    self.commands.push_back(Command::Reply { bytes });
                    self.finish(Some(Deny::Malformed));
                    return;
                }
            }
        }
        self.undecoded.drain(..consumed.min(self.undecoded.len()));
    }

    /// Reads on as far as the bytes go.
    fn advance(&mut self, now: Instant) {
        loop {
            let before = mem::discriminant(&self.state);
            match &self.state {
                State::FirstBytes { .. } => self.read_first_bytes(now),
                State::SocksGreeting => self.read_greeting(now),
                State::SocksCredentials => self.read_credentials(now),
                State::SocksRequest { .. } => self.read_socks_request(now),
                State::CgpTicket { .. } => self.read_cgp(now),
                State::HttpHead => self.read_http_head(now),
                State::SocksVerify { .. }
                | State::ConnectVerify { .. }
                | State::Redeem { .. }
                | State::Resolve { .. }
                | State::Admit { .. }
                | State::Dial { .. }
                | State::Done => return,
            }
            if before == mem::discriminant(&self.state) {
                break;
            }
        }
        let reading = !matches!(self.state, State::Done);
        if reading && self.input.len().max(self.undecoded.len()) > SETUP_INPUT_MAX_BYTES {
            self.refuse_where_it_stands(Deny::RequestTooLong);
        }
    }

    /// Refuses in the words of `speech` and ends.
    fn refuse(&mut self, speech: Speech, reason: Deny) {
        match speech {
            Speech::Socks => self.reply(&reason.socks_reply().encode()),
            Speech::Connect => return self.refuse_http(reason),
            // No refusal of CGP is publicly known, and the others promised none: closing is the answer.
            Speech::Cgp | Speech::Tls | Speech::Forward => {}
        }
        if matches!(self.framing, Framing::WebSocket(_)) {
            let bytes = websocket::close_frame(reason.websocket_close_code());
            self.commands.push_back(Command::Reply { bytes });
        }
        self.finish(Some(reason));
    }

    fn refuse_where_it_stands(&mut self, reason: Deny) {
        if matches!(self.state, State::HttpHead) {
            self.refuse_http(reason);
        } else if matches!(self.state, State::SocksRequest { .. }) {
            self.refuse(Speech::Socks, reason);
        } else {
            self.refuse(Speech::Cgp, reason);
        }
    }

    fn finish(&mut self, reason: Option<Deny>) {
        self.state = State::Done;
        self.commands.push_back(Command::Close { reason });
    }

    fn start_relay(&mut self) {
        self.state = State::Done;
        let relay = Relay {
            framing: mem::replace(&mut self.framing, Framing::Direct),
            forward: mem::take(&mut self.input),
            undecoded: mem::take(&mut self.undecoded),
        };
        self.commands.push_back(Command::Relay(relay));
    }
}

/// The server that a ticket names for a client's speech.
///
/// CGP clients go to the CGP address. Controllers that give only the ICA address mean port 2598 of the same host
/// (PROTOCOL §3); a ticket for another service, say SSH, has one address for all.
fn server_of(data: &TicketData, speech: Speech) -> Option<HostPort> {
    const ICA_PORT: u16 = 1494;
    const CGP_PORT: u16 = 2598;
    match speech {
        Speech::Cgp => data.cgp.clone().or_else(|| {
            let ica = data.ica.as_ref()?;
            let port = if ica.port() == ICA_PORT { CGP_PORT } else { ica.port() };
            HostPort::new(ica.host().clone(), port).ok()
        }),
        Speech::Socks | Speech::Connect | Speech::Tls | Speech::Forward => data.ica.clone(),
    }
}
