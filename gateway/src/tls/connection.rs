//! One TLS connection without input or output: bytes of the network in, plaintext out, and the other way round.
//!
//! rustls shakes hands. Where its configuration lets the secrets out (`enable_secret_extraction`), the records after
//! the handshake are ours ([`crate::tls::record`]) from the very first; otherwise, and in any doubt, rustls keeps
//! them. Buffers hold what one call brought and the beginning of a record or message, never more; the caller
//! bounds what it feeds and takes plaintext and records before it feeds again.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig, Side,
};

use crate::tls::record::{Alert, CONTENT_MAX_BYTES, Records};

/// Bytes of a record's header.
const HEADER_BYTES: usize = 5;

/// What is known once hands are shaken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    pub resumed: bool,
}

/// Who protects the records.
enum Engine {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    Records(Box<Records>),
    /// Nobody any more: rustls has given up, or a conversion failed half-way.
    Lost,
}

/// A TLS connection.
pub struct Connection {
    engine: Engine,
    /// Whether our records follow the handshake.
    own: bool,
    facts: Option<Facts>,
    /// What the client said before we answered, its hello, for the name in it: rustls does not tell that of an unbuffered
    /// connection, and few ask.
    hello: Vec<u8>,
    hears_hello: bool,
    is_server: bool,
    incoming: Vec<u8>,
    /// How much of `incoming` rustls has seen: whole records that make an incomplete handshake message.
    seen: usize,
    plaintext: Vec<u8>,
    outgoing: Vec<u8>,
    peer_closed: bool,
}

impl Connection {
    /// The server's side.
    ///
    /// # Errors
    /// What rustls says of its configuration.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let own = config.enable_secret_extraction;
        let engine = Engine::Server(Box::new(UnbufferedServerConnection::new(config)?));
        Ok(Self { hears_hello: true, is_server: true, ..Self::with(engine, own) })
    }

    /// The client's side; its hello is ready to be taken.
    ///
    /// # Errors
    /// What rustls says of its configuration.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let own = config.enable_secret_extraction;
        let engine = Engine::Client(Box::new(UnbufferedClientConnection::new(config, name)?));
        let mut connection = Self::with(engine, own);
        connection.feed(&[])?;
        Ok(connection)
    }

    /// A connection after its handshake, with ciphertext that has come already.
    #[must_use]
    pub fn from_records(records: Box<Records>, leftover: Vec<u8>) -> Self {
        Self { incoming: leftover, ..Self::with(Engine::Records(records), true) }
    }

    const fn with(engine: Engine, own: bool) -> Self {
        Self {
            engine,
            own,
            facts: None,
            hello: Vec::new(),
            hears_hello: false,
            is_server: false,
            incoming: Vec::new(),
            seen: 0,
            plaintext: Vec::new(),
            outgoing: Vec::new(),
            peer_closed: false,
        }
    }

    /// Gives up our records and the ciphertext that has come already.
    ///
    /// # Errors
    /// The connection itself, when rustls keeps the records, when the peer has ended its side, or when plaintext or
    /// records have not been taken.
    pub fn into_records(self) -> Result<(Box<Records>, Vec<u8>), Box<Self>> {
        let is_done = self.plaintext.is_empty() && self.outgoing.is_empty() && !self.peer_closed;
        match self {
            Self { engine: Engine::Records(records), mut incoming, .. } if is_done => {
                incoming.shrink_to_fit();
                Ok((records, incoming))
            }
            connection => Err(Box::new(Self { hello: Vec::new(), ..connection })),
        }
    }

    #[must_use]
    pub const fn is_handshaking(&self) -> bool {
        matches!(self.engine, Engine::Server(_) | Engine::Client(_)) && self.facts.is_none()
    }

    /// What was agreed; `None` until hands are shaken.
    #[must_use]
    pub const fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// The name that the client asked for.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        let (mut hello, mut bytes) = (Acceptor::default(), self.hello.as_slice());
        while !bytes.is_empty() {
            hello.read_tls(&mut bytes).ok()?;
        }
        // Where it cannot be read, rustls has said so to the peer in the connection itself.
        let accepted = hello.accept().ok()??;
        accepted.client_hello().server_name().map(str::to_owned)
    }

    /// Whether plaintext waits to be read.
    #[must_use]
    pub const fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    /// Whether the records that wait for the network belong to no handshake: it ended with the client's word, as it does
    /// under TLS 1.3, and all that the server adds is a session ticket.
    #[must_use]
    pub fn owes_ticket_only(&self) -> bool {
        let is_13 = self.facts.as_ref().is_some_and(|facts| facts.version == ProtocolVersion::TLSv1_3);
        is_13 && self.is_server
    }

    /// The peer sends no more.
    #[must_use]
    pub const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Takes bytes of the network in. Plaintext and records that come of them wait to be taken, even after an error:
    /// an alert may be among them.
    ///
    /// # Errors
    /// Why the connection ends.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.hears_hello {
            self.hello.extend_from_slice(bytes);
        }
        self.incoming.extend_from_slice(bytes);
        if !matches!(self.engine, Engine::Records(_)) {
            self.drive(Want::Nothing)?;
        }
        self.hears_hello &= self.outgoing.is_empty();
        // Its last record may be followed by ours.
        self.open()
    }

    /// Moves the plaintext that has come to the end of `into`.
    pub fn read_plaintext(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.plaintext);
    }

    /// Moves plaintext that has come to the beginning of `into` and says how much.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let count = self.plaintext.len().min(into.len());
        let (Some(from), Some(to)) = (self.plaintext.get(..count), into.get_mut(..count)) else { return 0 };
        to.copy_from_slice(from);
        self.plaintext.drain(..count);
        count
    }

    /// Makes records of plaintext. They wait to be taken.
    ///
    /// # Errors
    /// Before the end of the handshake, after an alert, and when the keys are used up and cannot be updated.
    pub fn write(&mut self, plaintext: &[u8]) -> Result<(), Error> {
        if let Engine::Records(records) = &mut self.engine {
            return records.write(plaintext, &mut self.outgoing);
        }
        for content in plaintext.chunks(CONTENT_MAX_BYTES) {
            if !self.drive(Want::Write(content))? {
                return Err(Error::HandshakeNotComplete);
            }
        }
        Ok(())
    }

    /// Says that nothing more comes from us.
    pub fn close_notify(&mut self) {
        match &mut self.engine {
            Engine::Records(records) => records.close_notify(&mut self.outgoing),
            // A connection that has failed has said so with an alert.
            _ => {
                self.drive(Want::Close).ok();
            }
        }
    }

    #[must_use]
    pub const fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The records that wait for the network; see [`Self::sent`].
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// The network has taken so many bytes of [`Self::outgoing`].
    pub fn sent(&mut self, count: usize) {
        self.outgoing.drain(..count.min(self.outgoing.len()));
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
    }

    /// Moves the records that wait for the network to the end of `into`.
    pub fn take_outgoing(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.outgoing);
    }

    /// Opens whole records, where they are ours to open.
    fn open(&mut self) -> Result<(), Error> {
        let Engine::Records(records) = &mut self.engine else { return Ok(()) };
        match records.open(&mut self.incoming) {
            Ok(opened) => {
                self.plaintext.extend_from_slice(self.incoming.get(opened.plaintext).unwrap_or_default());
                self.incoming.drain(..opened.consumed);
                self.peer_closed = opened.closed;
                // Whoever has closed owes no answer.
                records.write(&[], &mut self.outgoing).ok();
                Ok(())
            }
            Err(Alert::Received(description)) => Err(Error::AlertReceived(description)),
            Err(Alert::Send(description)) => {
                records.alert(description, &mut self.outgoing);
                Err(Error::General(format!("alert sent: {description:?}")))
            }
        }
    }

    /// Lets rustls work until it waits for the network; says whether it did what is wanted. An error ends it.
    fn drive(&mut self, mut want: Want<'_>) -> Result<bool, Error> {
        let (mut did, mut saw_all) = (false, false);
        loop {
            let window = if saw_all { self.incoming.len() } else { self.seen };
            let Some(next) = self.step(window, want) else { return Ok(did) };
            match next {
                Ok(Next::GoOn) => {}
                Ok(Next::PeerClosed) => self.peer_closed = true,
                Ok(Next::Did) => (did, want) = (true, Want::Nothing),
                Ok(Next::Wait) if saw_all => return Ok(did),
                Ok(Next::Wait) => {
                    self.finish_handshake()?;
                    saw_all = !self.see_next_record();
                }
                Err(error) => {
                    // The alert that says so comes before anything else that rustls does.
                    while self.common().is_some_and(CommonState::wants_write) {
                        self.step(window, Want::Nothing);
                    }
                    self.engine = Engine::Lost;
                    return Err(error);
                }
            }
        }
    }

    /// One step of rustls with the first bytes of what has come; `None` where it has nothing to say.
    fn step(&mut self, window: usize, want: Want<'_>) -> Option<Result<Next, Error>> {
        let window = self.incoming.get_mut(..window).unwrap_or_default();
        let buffers = (&mut self.plaintext, &mut self.outgoing);
        let (discard, next) = match &mut self.engine {
            Engine::Server(tls) => step(tls.process_tls_records(window), want, buffers),
            Engine::Client(tls) => step(tls.process_tls_records(window), want, buffers),
            Engine::Records(_) | Engine::Lost => return None,
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
        self.seen = self.seen.saturating_sub(discard);
        Some(next)
    }

    /// What rustls knows, as long as it has the connection.
    fn common(&self) -> Option<&CommonState> {
        match &self.engine {
            Engine::Server(tls) => Some(tls),
            Engine::Client(tls) => Some(tls),
            Engine::Records(_) | Engine::Lost => None,
        }
    }

    /// Shows rustls one record more, so that what follows the handshake is left to us. The beginning of a record
    /// is shown as it is: it may be none.
    fn see_next_record(&mut self) -> bool {
        let rest = self.incoming.get(self.seen..).unwrap_or_default();
        let Some([_, _, _, high, low]) = rest.first_chunk::<HEADER_BYTES>() else { return false };
        let length = HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() < length {
            return false;
        }
        self.seen += length;
        true
    }

    /// Notes what was agreed once hands are shaken, and takes the records over where they are ours and nothing is
    /// between.
    fn finish_handshake(&mut self) -> Result<(), Error> {
        let Some(common) = self.common() else { return Ok(()) };
        if self.facts.is_some() || common.is_handshaking() {
            return Ok(());
        }
        let (version, suite) = (common.protocol_version(), common.negotiated_cipher_suite());
        let (Some(version), Some(suite)) = (version, suite) else { return Ok(()) };
        let resumed = common.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_clean = self.seen == 0 && !common.wants_write() && !self.peer_closed;
        self.facts = Some(Facts { version, suite: suite.suite(), resumed });
        if !self.own || !is_clean || !Records::supports(suite.suite()) {
            return Ok(());
        }
        let records = match std::mem::replace(&mut self.engine, Engine::Lost) {
            Engine::Server(tls) => Records::new(tls.dangerous_into_kernel_connection()?, Side::Server),
            Engine::Client(tls) => Records::new(tls.dangerous_into_kernel_connection()?, Side::Client),
            Engine::Records(_) | Engine::Lost => None,
        };
        let records = records.ok_or(Error::HandshakeNotComplete)?;
        self.engine = Engine::Records(Box::new(records));
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = match &self.engine {
            Engine::Server(_) | Engine::Client(_) => "rustls",
            Engine::Records(_) => "own",
            Engine::Lost => "lost",
        };
        let Self { facts, peer_closed, .. } = self;
        f.debug_struct("Connection")
            .field("records", &engine)
            .field("facts", facts)
            .field("peer_closed", peer_closed)
            .finish()
    }
}

/// What rustls is to do once it can.
#[derive(Clone, Copy)]
enum Want<'a> {
    Nothing,
    Write(&'a [u8]),
    Close,
}

/// What came of one step of rustls.
enum Next {
    GoOn,
    PeerClosed,
    /// What was wanted is done.
    Did,
    /// It waits for the network.
    Wait,
}

/// One step: what rustls has for us goes into the buffers, what is wanted into rustls. Also says how many bytes at the
/// beginning of its input are done with.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    want: Want<'_>,
    (plaintext, outgoing): (&mut Vec<u8>, &mut Vec<u8>),
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    plaintext.extend_from_slice(record.payload);
                    discard += record.discard;
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::GoOn),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => write_into(outgoing, |room| {
            data.encode(room).map_err(|error| match error {
                EncodeError::InsufficientSize(size) => Some(size.required_size),
                EncodeError::AlreadyEncoded => None,
            })
        })
        .map(|()| Next::GoOn),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What was encoded is the caller's from now on.
            data.done();
            Ok(Next::GoOn)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match want {
            Want::Nothing => Ok(Next::Wait),
            Want::Write(content) => {
                write_into(outgoing, |room| traffic.encrypt(content, room).map_err(|error| lacking(&error)))
                    .map(|()| Next::Did)
            }
            Want::Close => {
                write_into(outgoing, |room| traffic.queue_close_notify(room).map_err(|error| lacking(&error)))
                    .map(|()| Next::Did)
            }
        },
        Ok(ConnectionState::PeerClosed) => Ok(Next::PeerClosed),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(Next::Wait),
        Ok(state) => Err(Error::General(format!("unexpected state {state:?}"))),
        Err(error) => Err(error),
    };
    (discard, next)
}

const fn lacking(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `write` writes. It says how much room it lacks, or `None` when it cannot write at all.
fn write_into(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = outgoing.len();
    let mut room = 0;
    // Twice is enough: first the size is learnt.
    for _ in 0..2 {
        outgoing.resize(start + room, 0);
        match write(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) => room = required,
            Err(None) => break,
        }
    }
    outgoing.truncate(start);
    Err(Error::EncryptError)
}
