//! One connection while it is set up: does what its `Tunnel` decides, then hands the session over or closes.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::command::{Command, Framing, Relay as Beginning};
use portcullis_core::deny::Deny;
use portcullis_core::limits::REFUSAL_LINGER;
use portcullis_core::policy::Permit;
use portcullis_core::session::EndReason;
use portcullis_core::tunnel::{DialError, ResolveError, Tunnel};
use portcullis_proto::host_port::HostName;
use portcullis_proto::ticket::Ticket;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::server_tls::{self, Dialed};
use super::{Front, Listener, Service, dial};
use crate::control_plane::Ask;
use crate::gate::ConnectionPass;
use crate::metrics::{HandshakeFailure, Stage};
use crate::relay::{Enrolled, Handover, Server};
use crate::tls::connection::Connection;
use crate::tls::stream::{ClientStream, Parts};
use crate::xdp::Half;

/// One read while the connection is set up; requests are small.
const READ_BYTES: usize = 16 * 1024;

/// Serves one connection until it is handed over or closed.
pub(super) async fn serve(
    index: usize,
    front: &Arc<Front>,
    listener: &Arc<Listener>,
    service: &Service,
    socket: TcpStream,
    source: SocketAddr,
    pass: ConnectionPass,
) {
    let Ok(local) = socket.local_addr() else { return };
    let Some(client) = shake_hands(front, listener, service, socket, source).await else { return };
    let now = Instant::now();
    let profile = Arc::clone(&service.profile);
    let tunnel = match &service.balancer {
        Some(balancer) => Tunnel::forward(profile, source, &balancer.service().choose(source, local), now),
        None => Tunnel::new(profile, source, now),
    };
    let conn = Conn {
        front,
        listener,
        service,
        source,
        local,
        client,
        tunnel,
        began: now,
        session: None,
        dialed: None,
        owner: front.cores.owner(index),
    };
    conn.run(index, pass).await;
}

/// Ends TLS where the listener speaks it.
async fn shake_hands(
    front: &Arc<Front>,
    listener: &Listener,
    service: &Service,
    socket: TcpStream,
    source: SocketAddr,
) -> Option<ClientStream> {
    let limits = &service.profile.limits;
    let Some(config) = &service.tls else {
        return Some(ClientStream::Plain(socket));
    };
    let proving = front.challenges.wanted(&socket).await;
    let handshake = match front.gate.handshake(&listener.metrics, source.ip(), limits) {
        Ok(handshake) => handshake,
        Err(reason) => {
            listener.metrics.refused(reason);
            return None;
        }
    };
    let began = Instant::now();
    let accepted = timeout(
        limits.handshake_timeout,
        ClientStream::accept_tls(socket, Arc::clone(proving.as_ref().unwrap_or(config))),
    )
    .await;
    drop(handshake);
    match accepted {
        // The issuer has seen what it wanted to see (RFC 8737 §3: nothing follows).
        Ok(Ok(_)) if proving.is_some() => {
            tracing::info!(listener = %listener.name, %source, "a name was proven by tls-alpn-01");
            None
        }
        Ok(Ok(stream)) => {
            listener.metrics.stage(Stage::Handshake, began.elapsed());
            if let Some((version, resumed)) = stream.tls_facts() {
                listener.metrics.handshake_succeeded(version, resumed);
            }
            Some(stream)
        }
        Ok(Err(error)) => {
            let failure = handshake_failure(&error);
            listener.metrics.handshake_failed(failure);
            front.bans.on_handshake_failure(source.ip(), failure);
            tracing::debug!(listener = %listener.name, %source, %error, "handshake failed");
            None
        }
        Err(_) => {
            listener.metrics.handshake_failed(HandshakeFailure::Timeout);
            None
        }
    }
}

struct Conn<'a> {
    front: &'a Arc<Front>,
    listener: &'a Arc<Listener>,
    service: &'a Service,
    source: SocketAddr,
    /// The own address that the client connected to.
    local: SocketAddr,
    client: ClientStream,
    tunnel: Tunnel,
    /// When the wait for a complete request began.
    began: Instant,
    session: Option<Enrolled>,
    dialed: Option<Dialed>,
    /// The processor that gets the session's packets, where they are steered.
    owner: Option<u16>,
}

impl Conn<'_> {
    async fn run(mut self, index: usize, pass: ConnectionPass) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            while let Some(command) = self.tunnel.poll_command() {
                match command {
                    Command::Relay(beginning) => return self.hand_over(index, beginning, pass),
                    Command::HandToWeb { bytes } => return self.hand_to_web(index, bytes, pass),
                    Command::Close { reason } => return self.close(reason, &mut buffer).await,
                    Command::Reply { bytes } => {
                        let limit = self.service.profile.limits.first_bytes_timeout;
                        if !matches!(timeout(limit, self.client.write_all(&bytes)).await, Ok(Ok(()))) {
                            return self.give_up(EndReason::ClientReset);
                        }
                    }
                    Command::Redeem { .. }
                    | Command::Verify { .. }
                    | Command::Resolve { .. }
                    | Command::Admit { .. }
                    | Command::Dial { .. } => self.carry_out(command).await,
                }
            }
            if !self.tunnel.wants_bytes() {
                return;
            }
            let due = self.tunnel.poll_timeout().unwrap_or_else(Instant::now);
            match timeout_at(due.into(), self.client.read(&mut buffer)).await {
                Ok(Ok(0)) => self.tunnel.handle_end_of_input(),
                Ok(Ok(read)) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    self.tunnel.handle_bytes(bytes, Instant::now());
                    if !self.tunnel.wants_bytes() {
                        self.listener.metrics.stage(Stage::FirstBytes, self.began.elapsed());
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(listener = %self.listener.name, source = %self.source, %error, "client gone");
                    return self.give_up(EndReason::ClientReset);
                }
                Err(_) => self.tunnel.handle_timeout(Instant::now()),
            }
        }
    }

    /// Does one thing whose outcome the tunnel waits for; the tunnel's own deadline bounds it.
    async fn carry_out(&mut self, command: Command) {
        match command {
            Command::Redeem { ticket } => {
                let Some(answer) = self.redeem(ticket).await else { return };
                if let TicketAnswer::Granted(_) = &answer {
                    self.front.bans.on_success(self.source.ip());
                }
                self.tunnel.handle_ticket(answer, Instant::now());
            }
            Command::Verify { user, password } => {
                let users = self.service.users.clone().unwrap_or_default();
                let (reply, answer) = oneshot::channel();
                let ask = Ask::Verify { users, user, password, reply };
                if let Some(answer) = self.ask(ask, answer, Stage::Verify).await {
                    if answer == Some(true) {
                        self.front.bans.on_success(self.source.ip());
                    }
                    self.tunnel.handle_verified(answer, Instant::now());
                }
            }
            Command::Resolve { name } => {
                let (reply, answer) = oneshot::channel();
                let answer = self.ask(Ask::Resolve { name, reply }, answer, Stage::Resolve).await;
                if let Some(answer) = answer {
                    let answer = answer.unwrap_or(Err(ResolveError::Overloaded));
                    self.tunnel.handle_resolved(answer, Instant::now());
                }
            }
            Command::Admit { info } => {
                let limits = &self.service.profile.limits;
                let mut enrolled = Enrolled::new(&self.front.relay, &self.listener.metrics, info, limits);
                if let Ok(session) = &mut enrolled {
                    session.admit(Half::Edge, self.source, self.local, self.owner);
                }
                let answer = enrolled.map(|session| self.session = Some(session));
                self.tunnel.handle_admitted(answer);
            }
            Command::Dial { permit, name } => {
                let result = self.dial(&permit, name.as_ref()).await;
                self.tunnel.handle_dialed(result);
            }
            Command::Reply { .. } | Command::Relay(_) | Command::HandToWeb { .. } | Command::Close { .. } => {
            }
        }
    }

    /// `None`: the tunnel's deadline came first and the tunnel has been told.
    async fn redeem(&mut self, ticket: Ticket) -> Option<TicketAnswer> {
        let stas = &self.service.stas;
        let began = Instant::now();
        if let Some(answer) = self.front.pool.redeem_own(stas, &ticket) {
            self.listener.metrics.stage(Stage::Redeem, began.elapsed());
            return Some(answer);
        }
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Redeem { stas: Arc::clone(stas), ticket, reply };
        let answer = self.ask(ask, answer, Stage::Redeem).await?;
        Some(answer.unwrap_or(TicketAnswer::Unavailable(Unavailable::Overloaded)))
    }

    async fn dial(&mut self, permit: &Permit, name: Option<&HostName>) -> Result<(), DialError> {
        let began = Instant::now();
        let deadline = self.tunnel.poll_timeout().unwrap_or(began).into();
        let (session, owner) = (&mut self.session, self.owner);
        let begun = |server, local| {
            if let Some(session) = session {
                session.admit(Half::Farm, server, local, owner);
            }
        };
        let result = dial::dial(permit, &self.service.source, deadline, begun).await;
        let metrics = &self.listener.metrics;
        metrics.stage(Stage::Dial, began.elapsed());
        let (socket, server) = result?;
        let tls = self.service.server_tls.as_ref();
        match server_tls::begin(tls, socket, (server, name), deadline, metrics).await {
            Ok(dialed) => {
                self.note_server(server, permit.addresses().first());
                self.dialed = Some(dialed);
                Ok(())
            }
            Err(failure) => {
                let (reason, error) = failure.meaning();
                if let Some(session) = &mut self.session {
                    session.set_reason(reason);
                }
                Err(error)
            }
        }
    }

    /// Sessions of a `forward` listener are named after the server that answered, not the one chosen first.
    fn note_server(&mut self, server: SocketAddr, chosen: Option<&SocketAddr>) {
        if let (Some(balancer), Some(session)) = (&self.service.balancer, &mut self.session)
            && chosen != Some(&server)
        {
            session.retarget(server.to_string());
            balancer.note_redialed();
        }
    }

    /// Asks the control plane. `None`: the tunnel's deadline came first and the tunnel has been told;
    /// `Some(None)`: the control plane is overloaded.
    async fn ask<T>(&mut self, ask: Ask, answer: oneshot::Receiver<T>, stage: Stage) -> Option<Option<T>> {
        let began = Instant::now();
        if self.front.asks.try_send(ask).is_err() {
            return Some(None);
        }
        let due = self.tunnel.poll_timeout().unwrap_or(began);
        let outcome = bounded(due, answer).await;
        self.listener.metrics.stage(stage, began.elapsed());
        match outcome {
            Some(answer) => Some(answer.ok()),
            None => {
                self.tunnel.handle_timeout(Instant::now());
                None
            }
        }
    }

    fn hand_over(mut self, index: usize, beginning: Beginning, pass: ConnectionPass) {
        let Some(server) = self.dialed.take() else { return };
        if let (Ok(server), Some(session)) = (server.into_server(), self.session.as_mut()) {
            session.establish();
            tracing::debug!(listener = %self.listener.name, session = %session.id(), "session established");
            self.pass_on(index, server, beginning, pass);
        }
    }

    /// HTTP is one more server: one end of a socket pair, and who the client is beside it, not in it.
    fn hand_to_web(self, index: usize, bytes: Vec<u8>, pass: ConnectionPass) {
        let pair = std::os::unix::net::UnixStream::pair();
        let Ok((ours, theirs)) = pair else {
            self.listener.metrics.refused(Deny::Overloaded);
            return;
        };
        let sni = self.client.tls().and_then(Connection::server_name);
        let listener = self.listener.name.to_string();
        let ask = Ask::Web { stream: theirs, client: self.source, listener, sni };
        match self.front.asks.try_send(ask) {
            Ok(()) => {
                let beginning = Beginning { framing: Framing::Direct, forward: bytes, undecoded: Vec::new() };
                self.pass_on(index, Server::Web(ours), beginning, pass);
            }
            Err(mpsc::error::TrySendError::Full(_) | mpsc::error::TrySendError::Closed(_)) => {
                self.listener.metrics.refused(Deny::Overloaded);
            }
        }
    }

    fn pass_on(self, index: usize, server: Server, mut beginning: Beginning, pass: ConnectionPass) {
        let session = self.session;
        let workers = &self.front.workers;
        let handed = self.client.into_parts().is_ok_and(|Parts { socket: client, codec, unread }| {
            match beginning.framing {
                Framing::Direct => beginning.forward.extend(unread),
                Framing::WebSocket(_) => beginning.undecoded.extend(unread),
            }
            let idle_timeout = self.service.profile.limits.idle_timeout;
            let handover = Handover { session, client, codec, server, beginning, idle_timeout, pass };
            // The worker of the same number runs on the same core.
            let worker = workers.get(index % workers.len().max(1));
            worker.is_some_and(|worker| worker.hand_over(handover).is_ok())
        });
        if !handed {
            self.listener.metrics.refused(Deny::Overloaded);
        }
    }

    /// Ends the connection politely: what was said reaches the client before the socket is closed.
    async fn close(mut self, reason: Option<Deny>, buffer: &mut [u8]) {
        if let Some(reason) = reason {
            self.note_refusal(reason);
        }
        let polite = async {
            self.client.shutdown().await?;
            // Closing with bytes unread would send a reset, which may overtake the refusal.
            let mut left: usize = 16;
            while left > 0 && self.client.read(buffer).await? > 0 {
                left = left.saturating_sub(1);
            }
            Ok::<(), io::Error>(())
        };
        // Whether the client hears it out is its own affair.
        timeout(REFUSAL_LINGER, polite).await.ok();
    }

    fn note_refusal(&self, reason: Deny) {
        self.listener.metrics.refused(reason);
        self.front.bans.on_refusal(self.source.ip(), reason);
        tracing::info!(
            listener = %self.listener.name, source = %self.source, reason = reason.label(), "refused"
        );
    }

    /// The client is gone.
    fn give_up(mut self, reason: EndReason) {
        // Whoever does not wait for a refusal was refused all the same.
        while let Some(command) = self.tunnel.poll_command() {
            if let Command::Close { reason: Some(reason) } = command {
                self.note_refusal(reason);
            }
        }
        if let Some(session) = &mut self.session {
            session.set_reason(reason);
        }
    }
}

/// Sorts what went wrong into the reasons that are counted.
fn handshake_failure(error: &io::Error) -> HandshakeFailure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return HandshakeFailure::from(error);
    }
    match error.kind() {
        io::ErrorKind::QuotaExceeded => HandshakeFailure::TooLong,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            HandshakeFailure::ClientClosed
        }
        _ => HandshakeFailure::Other,
    }
}

/// Waits until `due` at the most; `None`: it came first.
async fn bounded<F: Future>(due: Instant, future: F) -> Option<F::Output> {
    timeout_at(due.into(), future).await.ok()
}
