//! WebSocket (RFC 6455) as a carrier of bytes, both roles: the opening handshake here, frames below.
//!
//! Only binary messages are carried, and their boundaries mean nothing: the payloads are one stream. No extension
//! is ever negotiated. Randomness for keys and masks comes from the caller.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::Malformed;
use crate::http_head::{RequestHead, ResponseHead, push_line};

mod decoder;
mod frame;

pub use decoder::{Decoder, Event, Role, Violation};
pub use frame::{
    CONTROL_MAX_BYTES, FrameHeader, Opcode, close_frame, control_frame, frame_header, mask, pong,
};

/// RFC 6455 §4.1: the only version there is.
pub const VERSION: &str = "13";
/// RFC 6455 §1.3: what is appended to the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Most subprotocols that one client may offer.
const PROTOCOLS_MAX: usize = 16;

/// A request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Key` as the client wrote it: 16 bytes in base64.
    pub key: String,
    /// The subprotocols that the client offers, in its order of preference.
    pub protocols: Vec<String>,
}

/// Why a request for a WebSocket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Answered with 400.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Answered with 426 and `Sec-WebSocket-Version: 13`.
    #[error("Sec-WebSocket-Version is not 13")]
    UnsupportedVersion,
}

/// Reads a client's opening handshake (RFC 6455 §4.2.1). `None`: the request asks for no WebSocket.
///
/// # Errors
/// `UnsupportedVersion` for another version, `Malformed` for anything else that §4.2.1 does not allow.
pub fn upgrade(head: &RequestHead) -> Result<Option<Upgrade>, UpgradeError> {
    if !head.has_token("upgrade", "websocket") {
        return Ok(None);
    }
    if head.method != "GET" {
        return Err(Malformed::Illegal { what: "HTTP method" }.into());
    }
    if head.minor_version < 1 {
        return Err(Malformed::Illegal { what: "HTTP version" }.into());
    }
    if !head.has_token("connection", "upgrade") {
        return Err(Malformed::Illegal { what: "Connection header" }.into());
    }
    if single(head, "sec-websocket-version", "Sec-WebSocket-Version")?.trim() != VERSION {
        return Err(UpgradeError::UnsupportedVersion);
    }
    let key = single(head, "sec-websocket-key", "Sec-WebSocket-Key")?.trim();
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return Err(Malformed::Illegal { what: "Sec-WebSocket-Key" }.into());
    }
    Ok(Some(Upgrade { key: key.to_string(), protocols: protocols(head)? }))
}

fn single<'a>(head: &'a RequestHead, name: &'a str, what: &'static str) -> Result<&'a str, Malformed> {
    match head.count(name) {
        0 => Err(Malformed::Missing { what }),
        1 => head.header(name).ok_or(Malformed::Illegal { what }),
        _ => Err(Malformed::Illegal { what }),
    }
}

fn protocols(head: &RequestHead) -> Result<Vec<String>, Malformed> {
    const NAME: &str = "sec-websocket-protocol";
    const WHAT: &str = "Sec-WebSocket-Protocol";
    if head.headers(NAME).count() != head.count(NAME) {
        return Err(Malformed::Illegal { what: WHAT });
    }
    let mut protocols = Vec::new();
    for token in head.headers(NAME).flat_map(|value| value.split(',')).map(str::trim) {
        // RFC 6455 §4.1, item 10: tokens, "and MUST all be unique strings".
        if !is_token(token) || protocols.iter().any(|known| known == token) {
            return Err(Malformed::Illegal { what: WHAT });
        }
        if protocols.len() == PROTOCOLS_MAX {
            return Err(Malformed::TooLong { what: WHAT, limit: PROTOCOLS_MAX });
        }
        protocols.push(token.to_string());
    }
    Ok(protocols)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(legal)
}

/// The server's answer to a key (RFC 6455 §4.2.2, item 5.4).
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finalize())
}

/// The answer that opens the WebSocket; `protocol` must be one that the client offered.
#[must_use]
pub fn switching_protocols(upgrade: &Upgrade, protocol: Option<&str>) -> Vec<u8> {
    let mut text = String::from(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    push_line(&mut text, &accept_key(&upgrade.key));
    if let Some(protocol) = protocol {
        text.push_str("Sec-WebSocket-Protocol: ");
        push_line(&mut text, protocol);
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The opening handshake of our own client; `key` is 16 random bytes.
#[must_use]
pub fn client_upgrade(host: &str, path: &str, key: &[u8; 16]) -> Vec<u8> {
    let mut text = String::from("GET ");
    push_line(&mut text, &format!("{path} HTTP/1.1"));
    text.push_str("Host: ");
    push_line(&mut text, host);
    text.push_str(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
    );
    push_line(&mut text, &STANDARD.encode(key));
    text.push_str("\r\n");
    text.into_bytes()
}

/// Checks a server's answer to [`client_upgrade`] (RFC 6455 §4.1): no subprotocol and no extension was asked for,
/// so none may be chosen.
///
/// # Errors
/// `Illegal` or `Missing`, naming what is wrong.
pub fn verify_accept(head: &ResponseHead, key: &[u8; 16]) -> Result<(), Malformed> {
    let token = |name: &str, token: &str| {
        head.headers(name).flat_map(|value| value.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    if head.status != 101 {
        return Err(Malformed::Illegal { what: "HTTP status" });
    }
    if !token("upgrade", "websocket") {
        return Err(Malformed::Missing { what: "Upgrade header" });
    }
    if !token("connection", "upgrade") {
        return Err(Malformed::Missing { what: "Connection header" });
    }
    let accept = head.header("sec-websocket-accept");
    let accept = accept.ok_or(Malformed::Missing { what: "Sec-WebSocket-Accept" })?;
    if head.count("sec-websocket-accept") != 1 || accept.trim() != accept_key(&STANDARD.encode(key)) {
        return Err(Malformed::Illegal { what: "Sec-WebSocket-Accept" });
    }
    for (name, what) in [
        ("sec-websocket-extensions", "Sec-WebSocket-Extensions"),
        ("sec-websocket-protocol", "Sec-WebSocket-Protocol"),
    ] {
        if head.count(name) > 0 {
            return Err(Malformed::Illegal { what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
