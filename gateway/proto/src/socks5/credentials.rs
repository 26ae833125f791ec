//! The user name and password sub-negotiation (RFC 1929).

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use super::{OCTET_MAX, check_version, ready};
use crate::Malformed;
use crate::reader::Reader;

/// RFC 1929 §2: "the current version of the subnegotiation, which is X'01'".
const VERSION: u8 = 1;

/// A user name and a password, from RFC 1929 or from HTTP's Basic scheme. Wiped on drop, not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: Vec<u8>,
    pub password: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// # Errors
/// `Illegal` for another version, `Missing` for an empty user name or password.
pub fn credentials_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(&version) = bytes.first() else { return Ok(None) };
    check_version(version, VERSION, "SOCKS credentials version")?;
    let Some(&user) = bytes.get(1) else { return Ok(None) };
    if user == 0 {
        return Err(Malformed::Missing { what: "SOCKS user name" });
    }
    let before_password = usize::from(user).saturating_add(2);
    let Some(&password) = bytes.get(before_password) else { return Ok(None) };
    if password == 0 {
        return Err(Malformed::Missing { what: "SOCKS password" });
    }
    Ok(ready(bytes, before_password.saturating_add(1).saturating_add(usize::from(password))))
}

impl Credentials {
    /// # Errors
    /// As [`credentials_len`]; `Truncated` or `Trailing` unless `frame` is exactly one message.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        let version = reader.u8("SOCKS credentials version")?;
        check_version(version, VERSION, "SOCKS credentials version")?;
        let user = octets(&mut reader, "SOCKS user name")?.to_vec();
        let password = Zeroizing::new(octets(&mut reader, "SOCKS password")?.to_vec());
        reader.finish("SOCKS credentials")?;
        Ok(Self { user, password })
    }

    /// # Errors
    /// `Missing` for an empty field, `TooLong` for one of more than 255 bytes.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        // One allocation of the full size, so that no copy of the password is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(3 + 2 * OCTET_MAX));
        bytes.push(VERSION);
        let fields =
            [("SOCKS user name", self.user.as_slice()), ("SOCKS password", self.password.as_slice())];
        for (what, field) in fields {
            let length =
                u8::try_from(field.len()).map_err(|_| Malformed::TooLong { what, limit: OCTET_MAX })?;
            if length == 0 {
                return Err(Malformed::Missing { what });
            }
            bytes.push(length);
            bytes.extend_from_slice(field);
        }
        Ok(bytes)
    }
}

/// Reads a field of 1 to 255 octets after its length octet.
fn octets<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8], Malformed> {
    match reader.u8(what)? {
        0 => Err(Malformed::Missing { what }),
        length => reader.take(usize::from(length), what),
    }
}

/// The server's verdict on credentials; after a refusal the connection must be closed.
#[must_use]
pub const fn credentials_status(ok: bool) -> [u8; 2] {
    [VERSION, if ok { 0 } else { 1 }]
}

/// Reads the server's verdict on credentials, two bytes.
///
/// # Errors
/// `Illegal` for another version; `Truncated` or `Trailing` for another length.
pub fn parse_credentials_status(frame: &[u8]) -> Result<bool, Malformed> {
    let mut reader = Reader::new(frame);
    let version = reader.u8("SOCKS credentials version")?;
    check_version(version, VERSION, "SOCKS credentials version")?;
    let status = reader.u8("SOCKS credentials status")?;
    reader.finish("SOCKS credentials status")?;
    Ok(status == 0)
}
