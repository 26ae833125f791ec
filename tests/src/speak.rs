//! The bytes of the gateway's protocols as clients send them, written by hand from their documents.

use anyhow::{Context as _, Result, ensure};

use crate::client::Client;

/// PROTOCOL §1: how CGP with session reliability begins.
pub const CGP_PREFIX: &[u8] = b"\x1aCGP/01";

/// RFC 1928 §3: version 5, one method, no authentication.
pub const GREETING: &[u8] = &[5, 1, 0];

/// RFC 1928 §4: CONNECT to a domain name, which may be a ticket.
#[must_use]
pub fn socks_request(name: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let mut request = vec![5, 1, 0, 3, length];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request
}

/// RFC 1928 §4: CONNECT to an address.
#[must_use]
pub fn socks_request_v4(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0, 1];
    request.extend_from_slice(&address);
    request.extend_from_slice(&port.to_be_bytes());
    request
}

/// PROTOCOL §4: success, bound to no address.
pub const SOCKS_SUCCESS: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// A first CGP packet: the prefix, the ticket somewhere inside, opaque bytes around it.
#[must_use]
pub fn cgp_hello(ticket: &str) -> Vec<u8> {
    [CGP_PREFIX, &[0x14, 0x02, 0x00, 0x31], ticket.as_bytes(), &[0x00, 0x7f, 0x80, 0xff]].concat()
}

/// RFC 9110 §9.3.6: CONNECT with further header lines, each ending in CRLF.
#[must_use]
pub fn connect(target: &str, headers: &str) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{headers}\r\n").into_bytes()
}

/// RFC 1929 §2.
#[must_use]
pub fn credentials(user: &str, password: &str) -> Vec<u8> {
    let field = |text: &str| {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[length], text.as_bytes()].concat()
    };
    [vec![1], field(user), field(password)].concat()
}

/// Standard base64 with padding, for Basic credentials and WebSocket keys.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let symbol = |index: u32| {
        let index = usize::try_from(index & 0x3f).unwrap_or_default();
        ALPHABET.get(index).copied().map_or('=', char::from)
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        text.push(symbol(word >> 18));
        text.push(symbol(word >> 12));
        text.push(if chunk.len() > 1 { symbol(word >> 6) } else { '=' });
        text.push(if chunk.len() > 2 { symbol(word) } else { '=' });
    }
    text
}

/// What an HTTP server answered: the status code, the head and the body as far as its length says.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
}

impl Answer {
    /// A header's value; names are compared without regard to case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// What the client does at the start of a session.
pub trait Speak {
    /// Greets, asks and returns the reply code of RFC 1928 §6.
    ///
    /// # Errors
    /// When the gateway answers no SOCKS.
    fn socks(&mut self, name: &str, port: u16) -> Result<u8>;
    /// Reads one SOCKS reply and returns its code.
    ///
    /// # Errors
    /// When no reply of RFC 1928 §6 comes, or one that shows an address.
    fn socks_reply(&mut self) -> Result<u8>;
    /// Sends CONNECT and returns the answer.
    ///
    /// # Errors
    /// When no HTTP answer comes.
    fn connect(&mut self, target: &str, headers: &str) -> Result<Answer>;
    /// Reads the head of an HTTP answer.
    ///
    /// # Errors
    /// When no HTTP answer comes.
    fn http_answer(&mut self) -> Result<Answer>;
}

impl Speak for Client {
    fn socks(&mut self, name: &str, port: u16) -> Result<u8> {
        self.send(GREETING)?;
        let method = self.read(2).context("method selection")?;
        ensure!(method == [5, 0], "the method selection is {method:?}");
        self.send(&socks_request(name, port))?;
        self.socks_reply()
    }

    fn socks_reply(&mut self) -> Result<u8> {
        let reply = self.read(10).context("SOCKS reply")?;
        let code = reply.get(1).copied().context("reply code")?;
        let expected = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        ensure!(reply == expected, "the reply is {reply:?}");
        Ok(code)
    }

    fn connect(&mut self, target: &str, headers: &str) -> Result<Answer> {
        self.send(&connect(target, headers))?;
        self.http_answer()
    }

    fn http_answer(&mut self) -> Result<Answer> {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n")?).context("head of the answer")?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok(Answer { status: status.with_context(|| format!("no status in {head:?}"))?, head })
    }
}
