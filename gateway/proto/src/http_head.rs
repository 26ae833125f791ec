//! Heads of HTTP/1 messages (RFC 9112), read with httparse and written for refusals.
//!
//! Stricter than the RFC where leniency lets two readers differ: a line ends with CRLF only (§2.2 lets a reader
//! also take a lone LF), lines are not folded (§5.2), and a request of HTTP/1.1 has exactly one `Host` (§3.2).
//! Bodies are not read here.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::Malformed;

/// Longest head, from its first line to the empty line.
pub const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Most header fields of one head.
pub const HEADERS_MAX: usize = 100;

const END: &[u8] = b"\r\n\r\n";

/// The length of the head with its empty line.
///
/// # Errors
/// `TooLong` when the head does not end within [`HEAD_MAX_BYTES`], `Illegal` for a control character, or for a CR
/// or LF that is not part of a CRLF.
pub fn head_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let searched = bytes.get(..HEAD_MAX_BYTES).unwrap_or(bytes);
    let end = searched.windows(END.len()).position(|window| window == END);
    let head = end.and_then(|at| searched.get(..at.saturating_add(END.len())));
    check_characters(head.unwrap_or(searched))?;
    match head {
        Some(head) => Ok(Some(head.len())),
        None if bytes.len() >= HEAD_MAX_BYTES => {
            Err(Malformed::TooLong { what: "HTTP head", limit: HEAD_MAX_BYTES })
        }
        None => Ok(None),
    }
}

/// RFC 9112 §2.2 and RFC 9110 §5.5: no control character but the tab, and CR and LF only as a pair.
fn check_characters(bytes: &[u8]) -> Result<(), Malformed> {
    let mut after_cr = false;
    for &byte in bytes {
        let legal = match byte {
            b'\n' => after_cr,
            b'\t' | b'\r' | 0x20..=0x7E | 0x80..=0xFF => !after_cr,
            0..=0x1F | 0x7F => false,
        };
        if !legal {
            return Err(Malformed::Illegal { what: "HTTP head" });
        }
        after_cr = byte == b'\r';
    }
    Ok(())
}

/// The header fields of one head, in their order.
#[derive(Clone, PartialEq, Eq)]
struct Fields(Vec<(String, Vec<u8>)>);

impl Fields {
    fn new(headers: &[httparse::Header<'_>]) -> Self {
        Self(headers.iter().map(|h| (h.name.to_string(), h.value.to_vec())).collect())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let visible = |b: &u8| b.is_ascii_graphic() || *b == b' ' || *b == b'\t';
        self.values(name).filter(move |v| v.iter().all(visible)).filter_map(|v| core::str::from_utf8(v).ok())
    }

    fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.texts(name).next()
    }
}

/// The head of a request. Targets and headers carry tickets and passwords, so `Debug` prints neither.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    pub target: String,
    pub minor_version: u8,
    fields: Fields,
}

impl RequestHead {
    /// # Errors
    /// `Illegal` for bad syntax, `TooLong` for too many header fields, `Missing` for an absent `Host` in HTTP/1.1,
    /// `Trailing` unless `frame` is exactly one head.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        whole_head(frame)?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        complete(request.parse(frame), frame.len())?;
        let head = Self {
            method: request.method.ok_or(INCOMPLETE)?.to_string(),
            target: request.path.ok_or(INCOMPLETE)?.to_string(),
            minor_version: request.version.ok_or(INCOMPLETE)?,
            fields: Fields::new(request.headers),
        };
        // RFC 9112 §3.2: no Host in a request of HTTP/1.1, more than one or an invalid one in any, is answered with
        // 400.
        match head.count("host") {
            0 if head.minor_version > 0 => Err(Malformed::Missing { what: "Host header" }),
            0 => Ok(head),
            1 if head.header("host").is_some_and(is_host) => Ok(head),
            _ => Err(Malformed::Illegal { what: "Host header" }),
        }
    }

    /// The first value of a header that is visible ASCII; names compare without case.
    #[must_use]
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.fields.first(name)
    }

    /// Every value of a header that is visible ASCII, in order.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.texts(name)
    }

    /// How often a header occurs, legible or not.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.fields.values(name).count()
    }

    /// Whether a header that is a comma-separated list of tokens holds `token` (RFC 9110 §5.6.1), without case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers(name).flat_map(|value| value.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("minor_version", &self.minor_version)
            .field("fields", &self.fields.0.len())
            .finish_non_exhaustive()
    }
}

/// The head of a response. Cookies are headers, so `Debug` prints none.
#[derive(Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub reason: String,
    pub minor_version: u8,
    fields: Fields,
}

impl ResponseHead {
    /// # Errors
    /// `Illegal` for bad syntax, `TooLong` for too many header fields, `Trailing` unless `frame` is exactly one
    /// head.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        whole_head(frame)?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        complete(response.parse(frame), frame.len())?;
        Ok(Self {
            status: response.code.filter(|code| (100..=599).contains(code)).ok_or(INCOMPLETE)?,
            reason: response.reason.unwrap_or_default().to_string(),
            minor_version: response.version.ok_or(INCOMPLETE)?,
            fields: Fields::new(response.headers),
        })
    }

    /// The first value of a header that is visible ASCII; names compare without case.
    #[must_use]
    pub fn header<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.fields.first(name)
    }

    /// Every value of a header that is visible ASCII, in order.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.texts(name)
    }

    /// How often a header occurs, legible or not.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.fields.values(name).count()
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("minor_version", &self.minor_version)
            .field("fields", &self.fields.0.len())
            .finish_non_exhaustive()
    }
}

/// The characters of `uri-host [ ":" port ]` (RFC 3986 §3.2.2); what is a name or an address is not asked here.
fn is_host(value: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&b);
    value.bytes().all(legal)
}

const INCOMPLETE: Malformed = Malformed::Illegal { what: "HTTP head" };

fn whole_head(frame: &[u8]) -> Result<(), Malformed> {
    match head_len(frame)? {
        None => Err(Malformed::Truncated { what: "HTTP head" }),
        Some(length) if length < frame.len() => Err(Malformed::Trailing { what: "HTTP head" }),
        Some(_) => Ok(()),
    }
}

fn complete(status: httparse::Result<usize>, length: usize) -> Result<(), Malformed> {
    use httparse::Error;
    let what = match status {
        Ok(httparse::Status::Complete(read)) if read == length => return Ok(()),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) | Err(Error::NewLine) => "HTTP head",
        Err(Error::TooManyHeaders) => {
            return Err(Malformed::TooLong { what: "HTTP header list", limit: HEADERS_MAX });
        }
        Err(Error::HeaderName) => "HTTP header name",
        Err(Error::HeaderValue) => "HTTP header value",
        Err(Error::Status) => "HTTP status",
        Err(Error::Token) => "HTTP request line",
        Err(Error::Version) => "HTTP version",
    };
    Err(Malformed::Illegal { what })
}

/// A whole response that ends the connection. Control characters in header values become spaces, so that no value
/// can add a line.
#[must_use]
pub fn response(status: u16, reason: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = String::from("HTTP/1.1 ");
    text.push_str(&status.to_string());
    text.push(' ');
    push_line(&mut text, reason);
    for (name, value) in headers {
        text.push_str(name);
        text.push_str(": ");
        push_line(&mut text, value);
    }
    text.push_str("Content-Length: ");
    push_line(&mut text, &body.len().to_string());
    push_line(&mut text, "Connection: close");
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

pub(crate) fn push_line(text: &mut String, line: &str) {
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests;
