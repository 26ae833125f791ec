//! A Secure Ticket Authority that does as it is told: grants, refuses, lies, dawdles and dies (PROTOCOL §3).

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::backend::Service;
use crate::filtered;
use crate::wait;

/// How the double answers requests for the data of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    Sound,
    /// These bytes instead of any answer, then the connection ends.
    Bytes(Vec<u8>),
    /// An answer with this body, whatever was asked.
    Body(Vec<u8>),
    /// An answer with this status line and no body.
    Status(&'static str),
    /// The answer, but only when the mood has changed.
    WhenTold,
    /// Half of the answer, then nothing until the mood changes.
    Half,
}

struct State {
    id: String,
    mood: Mood,
    tickets: HashMap<String, String>,
    next: u32,
    redeemed: usize,
    heads: Vec<String>,
}

/// A running double. It listens no more when it is dropped.
pub struct StaDouble {
    service: Service,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for StaDouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaDouble").field("service", &self.service).finish_non_exhaustive()
    }
}

impl StaDouble {
    /// Starts a double that speaks HTTP on a free port.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub fn start(id: &str) -> Result<Self> {
        Self::start_at(id, SocketAddr::new(filtered::authority(), 0), None)
    }

    /// Starts a double at an address of the caller's, with TLS when there is a configuration.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub fn start_at(id: &str, at: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let state = State {
            id: id.to_owned(),
            mood: Mood::Sound,
            tickets: HashMap::new(),
            next: 0,
            redeemed: 0,
            heads: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let listener = TcpListener::bind(at).with_context(|| format!("listen on {at}"))?;
        let service = Service::on(listener, move |stream| {
            // A client that goes away in the middle is no concern of an authority.
            drop(handle(stream, tls.clone(), &shared));
        })?;
        Ok(Self { service, state })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// The `[[sta]]` section for this double, without authority id: the gateway is to learn it.
    #[must_use]
    pub fn section(&self, name: &str, keys: &str) -> String {
        format!("[[sta]]\nname = \"{name}\"\nurl = \"http://{}\"\n{keys}\n", self.address())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// A new ticket string for a server.
    #[must_use]
    pub fn issue(&self, target: &str) -> String {
        self.issue_with(&format!(
            "<Value name=\"ICAAddress\">{target}</Value><Value name=\"CGPAddress\">{target}</Value>"
        ))
    }

    /// A new ticket string whose data are these `Value` elements.
    #[must_use]
    pub fn issue_with(&self, values: &str) -> String {
        let mut state = self.lock();
        state.next += 1;
        let secret = format!("{:030X}", state.next);
        state.tickets.insert(secret.clone(), values.to_owned());
        format!(";40;{};{secret}", state.id)
    }

    /// How many tickets were shown to the double, good and bad.
    #[must_use]
    pub fn redeemed(&self) -> usize {
        self.lock().redeemed
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.service.accepted()
    }

    /// The heads of all requests so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.lock().heads.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

trait Stream: std::io::Read + Write {}
impl<T: std::io::Read + Write> Stream for T {}

fn handle(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, state: &Mutex<State>) -> Result<()> {
    tcp.set_read_timeout(Some(wait::PATIENCE))?;
    let stream: Box<dyn Stream> = match tls {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config)?, tcp)),
        None => Box::new(tcp),
    };
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = request(&mut stream)? {
        let redeems = body.contains("<RequestData");
        let (mood, answer) = {
            let mut state = lock(state);
            state.heads.push(head);
            let answer = if redeems { redeem(&mut state, &body) } else { issued(&mut state) };
            (state.mood.clone(), answer)
        };
        if !say(stream.get_mut(), &mood, &answer, state)? {
            return Ok(());
        }
    }
    Ok(())
}

fn request(stream: &mut BufReader<Box<dyn Stream>>) -> Result<Option<(String, String)>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("content-length")?;
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((head, String::from_utf8(body)?)))
}

fn redeem(state: &mut State, body: &str) -> String {
    state.redeemed += 1;
    let secret = body.split_once("<Ticket>").and_then(|(_, rest)| rest.split_once("</Ticket>"));
    let data = secret.and_then(|(secret, _)| state.tickets.remove(&secret.trim().to_uppercase()));
    let inner = match data {
        Some(values) => format!(
            "<ResponseData><TicketType>STA-v4</TicketType><TicketData>{values}</TicketData></ResponseData>"
        ),
        None => "<ResponseData><Error>unknown ticket</Error></ResponseData>".to_owned(),
    };
    document(&inner)
}

fn issued(state: &mut State) -> String {
    state.next += 1;
    document(&format!(
        "<ResponseTicket><AuthorityID>{}</AuthorityID><Ticket>{:030X}</Ticket>\
         <TicketVersion>40</TicketVersion></ResponseTicket>",
        state.id, state.next
    ))
}

fn document(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\r\n\
         <CtxSTAProtocol version=\"4.0\">{inner}</CtxSTAProtocol>"
    )
}

fn http(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Answers in the given mood; `false` ends the connection.
fn say(stream: &mut dyn Stream, mood: &Mood, answer: &str, state: &Mutex<State>) -> Result<bool> {
    let whole = http(answer.as_bytes());
    match mood {
        Mood::Sound => stream.write_all(&whole)?,
        Mood::Bytes(bytes) => stream.write_all(bytes)?,
        Mood::Body(body) => stream.write_all(&http(body))?,
        Mood::Status(line) => {
            stream.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        }
        Mood::WhenTold => {
            wait_for_change(mood, state)?;
            stream.write_all(&whole)?;
        }
        Mood::Half => {
            let (half, rest) = whole.split_at(whole.len() / 2);
            stream.write_all(half)?;
            stream.flush()?;
            wait_for_change(mood, state)?;
            stream.write_all(rest)?;
        }
    }
    stream.flush()?;
    Ok(!matches!(mood, Mood::Bytes(_)))
}

fn wait_for_change(mood: &Mood, state: &Mutex<State>) -> Result<()> {
    wait::until(Duration::from_secs(60), "the mood to change", || lock(state).mood != *mood)
}

/// An address on which nothing listens, and from which a double can be started later.
///
/// # Errors
/// When no port is free.
pub fn vacant(ip: IpAddr) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip, crate::process::free_port()?))
}
