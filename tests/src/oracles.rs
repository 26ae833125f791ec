//! What must hold for any bytes, one function per parser. The fuzz targets of `tests/fuzz` call them with bytes that
//! libFuzzer makes up, and `tests/it/fuzz_regression.rs` with the files kept from earlier runs.
//!
//! An oracle panics when something does not hold: a parser panics or disagrees with its own length function, a value
//! changes when it is written and read again, or an answer depends on how the bytes were cut.

mod packets;
mod records;

use portcullis_proto::host_port::HostPort;
use portcullis_proto::http_connect::{ConnectTarget, basic_credentials, connect_request, parse_target};
use portcullis_proto::http_head::{RequestHead, ResponseHead, head_len};
use portcullis_proto::ica_file::{FILE_MAX_BYTES, IcaFile};
use portcullis_proto::sniff::FirstBytes;
use portcullis_proto::socks5::{
    Credentials, Greeting, Request, credentials_len, greeting_len, parse_credentials_status,
    parse_method_selection, parse_reply, reply_len, request_len,
};
use portcullis_proto::sta::{
    ConnectionInfo, DataAnswer, TEXT_MAX_BYTES, TicketAnswer, encode_error, encode_response_data,
    parse_request, parse_response_data, parse_response_ticket,
};
use portcullis_proto::ticket::TicketString;
use portcullis_proto::websocket::{Decoder, Event, Role, Violation};
use portcullis_proto::{Malformed, cgp as cgp_packet, sniff as first_bytes, sta, websocket as ws};

pub use packets::walk;
pub use records::records;

/// An oracle by the name of its fuzz target.
pub type Oracle = (&'static str, fn(&[u8]));

/// Every oracle.
pub const ALL: [Oracle; 13] = [
    ("sniff", sniff),
    ("socks5", socks5),
    ("http_head", http_head),
    ("http_connect", http_connect),
    ("websocket_handshake", websocket_handshake),
    ("websocket_frames", websocket_frames),
    ("cgp", cgp),
    ("ticket", ticket),
    ("sta_request", sta_request),
    ("sta_response", sta_response),
    ("ica_file", ica_file),
    ("walk", walk),
    ("records", records),
];

/// The first byte says where the rest is cut.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (at, rest) = bytes.split_first()?;
    Some((rest.get(..usize::from(*at)).unwrap_or(rest), rest))
}

/// A length function over a prefix says nothing, or what it says of the whole.
fn prefix_agrees(early: Result<Option<usize>, Malformed>, whole: Result<Option<usize>, Malformed>) {
    match early {
        Ok(None) => {}
        decided => assert_eq!(decided, whole, "a decision was taken back"),
    }
}

fn frame(bytes: &[u8], length: Result<Option<usize>, Malformed>) -> Option<&[u8]> {
    let length = length.ok().flatten()?;
    Some(bytes.get(..length).expect("a length function never promises more bytes than there are"))
}

/// A decision stands when more bytes come, and 24 bytes are enough for one.
pub fn sniff(bytes: &[u8]) {
    let Some((early, whole)) = cut(bytes) else { return };
    match first_bytes::sniff(early) {
        None => assert!(early.len() < 24, "24 bytes and no decision"),
        Some(FirstBytes::SocksGreetingOrRequest) => assert_eq!(early, [5, 1, 0]),
        decided => assert_eq!(first_bytes::sniff(whole), decided, "a decision was taken back"),
    }
}

/// Every SOCKS message: lengths agree with parsers, prefixes wait, and what is read can be written and read again.
pub fn socks5(bytes: &[u8]) {
    let Some((early, whole)) = cut(bytes) else { return };
    prefix_agrees(greeting_len(early), greeting_len(whole));
    prefix_agrees(request_len(early), request_len(whole));
    prefix_agrees(reply_len(early), reply_len(whole));
    prefix_agrees(credentials_len(early), credentials_len(whole));
    if let Some(frame) = frame(whole, greeting_len(whole)) {
        let greeting = Greeting::parse(frame).expect("a whole greeting has nothing more to be wrong");
        assert_eq!(greeting.encode().as_deref(), Ok(frame));
    }
    if let Some(frame) = frame(whole, credentials_len(whole)) {
        let credentials = Credentials::parse(frame).expect("whole credentials have nothing more to be wrong");
        assert_eq!(credentials.encode().as_ref().map(|bytes| bytes.as_slice()), Ok(frame));
    }
    if let Some(Ok(request)) = frame(whole, request_len(whole)).map(Request::parse) {
        assert_eq!(request_len(&request.encode()), Ok(Some(request.encode().len())));
        assert_eq!(Request::parse(&request.encode()).as_ref(), Ok(&request));
        let ticket = request.ticket().is_some_and(|ticket| ticket.is_ok());
        assert!(!ticket || request.server().is_err(), "a name is both a ticket and a server");
    }
    if let Some(frame) = frame(whole, reply_len(whole)) {
        assert_eq!(parse_reply(frame).ok().as_ref(), frame.get(1));
    }
    assert_eq!(parse_method_selection(whole).is_ok(), whole.len() == 2 && whole.first() == Some(&5));
    assert_eq!(parse_credentials_status(whole).is_ok(), whole.len() == 2 && whole.first() == Some(&1));
}

/// Heads of requests and responses: lengths agree with parsers, prefixes wait.
pub fn http_head(bytes: &[u8]) {
    let Some((early, whole)) = cut(bytes) else { return };
    prefix_agrees(head_len(early), head_len(whole));
    let length = head_len(whole);
    if let Ok(head) = RequestHead::parse(whole) {
        assert_eq!(length, Ok(Some(whole.len())));
        assert!(head.count("host") <= 1 && head.minor_version <= 1 && !head.method.is_empty());
        assert!(head.headers("host").count() <= head.count("host"));
    }
    if let Ok(head) = ResponseHead::parse(whole) {
        assert_eq!(length, Ok(Some(whole.len())));
        assert!((100..600).contains(&head.status));
    }
}

/// CONNECT: what is read of a request is read again of the request that our client would send.
pub fn http_connect(bytes: &[u8]) {
    let Ok(head) = RequestHead::parse(bytes) else { return };
    if let Ok(target) = parse_target(&head) {
        let text = match &target {
            ConnectTarget::Ticket(ticket) => ticket.expose(),
            ConnectTarget::Server(server) => server.to_string(),
        };
        let ours = RequestHead::parse(&connect_request(&text, None)).expect("our own request is a good head");
        assert_eq!(parse_target(&ours), Ok(target));
    }
    if let Ok(Some(credentials)) = basic_credentials(&head) {
        let ours = RequestHead::parse(&connect_request("a:1", Some(&credentials)))
            .expect("our own request is a good head");
        assert_eq!(basic_credentials(&ours), Ok(Some(credentials)));
    }
}

/// The opening handshake: an accepted key gets an answer that a client can read, with the subprotocol it offered.
pub fn websocket_handshake(bytes: &[u8]) {
    if let Ok(head) = ResponseHead::parse(bytes) {
        // Nobody can guess the answer to a key that was not sent.
        assert!(ws::verify_accept(&head, b"0123456789abcdef").is_err() || bytes.len() > 100);
    }
    let Some(upgrade) = RequestHead::parse(bytes).ok().and_then(|head| ws::upgrade(&head).ok().flatten())
    else {
        return;
    };
    let protocol = upgrade.protocols.first().map(String::as_str);
    let answer = ws::switching_protocols(&upgrade, protocol);
    let head = ResponseHead::parse(&answer).expect("our own answer is a good head");
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-protocol"), protocol);
    assert_eq!(head.header("sec-websocket-accept"), Some(ws::accept_key(&upgrade.key).as_str()));
}

/// What a stream of frames gives: the payload, the other events, the violation that ended it, and `pending`.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    payload: Vec<u8>,
    events: Vec<Event>,
    violation: Option<Violation>,
    pending: bool,
}

impl Stream {
    /// Reads `bytes` in chunks of `size`.
    fn read(role: Role, bytes: &[u8], size: usize) -> Self {
        let mut decoder = Decoder::new(role);
        let mut stream = Self { payload: Vec::new(), events: Vec::new(), violation: None, pending: false };
        let mut bytes = bytes.to_vec();
        for chunk in bytes.chunks_mut(size.max(1)) {
            if let Err(violation) = stream.read_chunk(&mut decoder, chunk) {
                stream.violation = Some(violation);
                return stream;
            }
        }
        stream.pending = decoder.pending();
        stream
    }

    fn read_chunk(&mut self, decoder: &mut Decoder, mut chunk: &mut [u8]) -> Result<(), Violation> {
        while !chunk.is_empty() {
            let (used, event) = decoder.decode(chunk)?;
            assert!(used > 0, "the decoder stands still");
            let (read, rest) = chunk.split_at_mut(used);
            match event {
                Some(Event::Data(range)) => {
                    let data = read.get(range).expect("data lies in what was consumed");
                    assert!(!data.is_empty(), "an event without data");
                    self.payload.extend_from_slice(data);
                }
                Some(event) => self.events.push(event),
                None => assert!(rest.is_empty(), "no event and not all consumed"),
            }
            chunk = rest;
        }
        Ok(())
    }
}

/// Frames: the same stream however it is cut, and a payload that is written can be read. The first byte chooses the
/// role and the chunks.
pub fn websocket_frames(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let whole = Stream::read(role, bytes, usize::MAX);
    assert_eq!(Stream::read(role, bytes, usize::from(choice >> 1)), whole);
    assert!(whole.payload.len() <= bytes.len());
    let pings = whole.events.iter().filter_map(|event| match event {
        Event::Ping(payload) => Some(payload.len()),
        Event::Data(_) | Event::Pong | Event::Close(_) => None,
    });
    assert!(pings.max().unwrap_or(0) <= ws::CONTROL_MAX_BYTES);

    let key = (role == Role::Server).then_some([*choice, 0x5A, 0xA5, 0xFF]);
    let mut payload = bytes.to_vec();
    if let Some(key) = key {
        ws::mask(&mut payload, key, 0);
    }
    let header = ws::frame_header(ws::Opcode::Binary, bytes.len(), key);
    let back = Stream::read(role, &[header.as_ref(), &payload].concat(), usize::from(choice >> 1));
    assert_eq!(back.payload, bytes);
    assert!(back.events.is_empty() && back.violation.is_none() && !back.pending);
}

/// The ticket in a CGP packet: a prefix is not malformed when the whole is not, and gives no other ticket.
pub fn cgp(bytes: &[u8]) {
    let Some((early, whole)) = cut(bytes) else { return };
    let packet = |bytes: &[u8]| [&cgp_packet::PREFIX, bytes].concat();
    let (early, whole) = (cgp_packet::find_ticket(&packet(early)), cgp_packet::find_ticket(&packet(whole)));
    match (early, whole) {
        (Ok(Some(early)), Ok(Some(whole))) if early.complete => assert_eq!(early, whole),
        (Ok(Some(early)), whole) if early.complete => assert_eq!(whole, Ok(Some(early))),
        (Err(early), whole) => assert_eq!(whole, Err(early)),
        (Ok(_), Ok(Some(found))) => {
            let hello = cgp_packet::client_hello(&found.ticket);
            let again = cgp_packet::find_ticket(&hello).ok().flatten().expect("our own hello has a ticket");
            assert_eq!((again.ticket, again.complete), (found.ticket, true));
        }
        (Ok(_), _) => {}
    }
    drop(cgp_packet::find_ticket(bytes));
}

/// Ticket strings and addresses are written as they are read.
pub fn ticket(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Ok(ticket) = TicketString::parse(text) {
        assert!(TicketString::is_ticket(text) && HostPort::parse(text).is_err());
        assert_eq!(TicketString::parse(&ticket.expose()).as_ref(), Ok(&ticket));
        let shown = format!("{ticket:?}");
        let secrets = ticket.into_tickets();
        assert!(secrets.iter().all(|ticket| !shown.contains(ticket.secret.expose())), "a secret is printed");
    }
    for default_port in [None, Some(1494)] {
        if let Ok(server) = HostPort::parse_or_port(text, default_port) {
            assert_eq!(HostPort::parse(&server.to_string()), Ok(server));
        }
    }
}

/// Requests to an authority are written as they are read.
pub fn sta_request(bytes: &[u8]) {
    let Ok(request) = parse_request(bytes) else { return };
    let written = match &request {
        sta::Request::Ticket(request) => request.encode(),
        sta::Request::Data(request) => request.encode(),
    };
    assert!(written.len() <= sta::MESSAGE_MAX_BYTES);
    assert_eq!(parse_request(written.as_bytes()), Ok(request));
}

/// Answers of an authority are written as they are read, and a refusal's words are bounded and hold no ticket.
pub fn sta_response(bytes: &[u8]) {
    let bounded = |text: &str| {
        assert!(text.len() <= TEXT_MAX_BYTES && !text.contains(char::is_control));
        let runs = text.split(|c: char| !c.is_ascii_hexdigit());
        assert!(runs.map(str::len).max().unwrap_or(0) < 16, "a refusal may hold a ticket");
    };
    match parse_response_data(bytes) {
        Ok(DataAnswer::Data(data)) => {
            let written = encode_response_data(&data);
            assert!(written.len() <= sta::MESSAGE_MAX_BYTES);
            assert_eq!(parse_response_data(written.as_bytes()), Ok(DataAnswer::Data(data)));
        }
        Ok(DataAnswer::Refused { text }) => {
            bounded(&text);
            let again = parse_response_data(encode_error(&text).as_bytes());
            assert_eq!(again, Ok(DataAnswer::Refused { text }));
        }
        Err(_) => {}
    }
    match parse_response_ticket(bytes) {
        Ok(TicketAnswer::Issued(ticket)) => {
            let again = parse_response_ticket(ticket.encode().as_bytes());
            assert_eq!(again, Ok(TicketAnswer::Issued(ticket)));
        }
        Ok(TicketAnswer::Refused { text }) => bounded(&text),
        Err(_) => {}
    }
    let inner = core::str::from_utf8(bytes).ok().and_then(ConnectionInfo::parse);
    if let Some(info) = inner {
        assert_eq!(ConnectionInfo::parse(&info.encode()), Some(info));
    }
}

/// ICA files are written as they are read.
pub fn ica_file(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    match IcaFile::parse(text) {
        Ok(file) => {
            let written = file.to_string();
            // Line ends grow when they are written.
            if written.len() <= FILE_MAX_BYTES {
                assert_eq!(IcaFile::parse(&written), Ok(file));
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(faults.windows(2).all(|pair| pair[0].0 < pair[1].0), "faults out of order");
        }
    }
}
