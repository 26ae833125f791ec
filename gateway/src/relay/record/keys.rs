//! Keys of one direction, where they come from, and how they are put to a record.

use std::fmt;

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion, SupportedCipherSuite};
use zeroize::Zeroize as _;

use super::{EXPLICIT_NONCE_BYTES, HEADER_BYTES, TAG_BYTES, Unsuitable};

/// rustls's part of a connection: the secrets from which new keys come.
pub enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Kernel {
    pub(super) fn terms(&self) -> (ProtocolVersion, SupportedCipherSuite) {
        match self {
            Self::Server(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
            Self::Client(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
        }
    }

    /// The next keys to seal with.
    pub(super) fn next_tx(&mut self) -> Option<Half> {
        let next = match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        };
        Half::new(next.ok()?).ok()
    }

    /// The next keys to open with.
    pub(super) fn next_rx(&mut self) -> Option<Half> {
        let next = match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        };
        Half::new(next.ok()?).ok()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Server(_)) { "Server" } else { "Client" })
    }
}

/// How a record is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Tls13,
    /// With an explicit nonce (RFC 5288 §3).
    Tls12Gcm,
    Tls12ChaCha,
}

impl Layout {
    /// Bytes of the nonce that a record carries.
    pub(super) const fn explicit(self) -> usize {
        if matches!(self, Self::Tls12Gcm) { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    /// Bytes of the content type inside the protected part.
    pub(super) const fn inner_type(self) -> usize {
        if matches!(self, Self::Tls13) { 1 } else { 0 }
    }

    /// What is authenticated besides the content: RFC 8446 §5.2, RFC 5246 §6.2.3.3.
    fn additional(self, header: [u8; HEADER_BYTES], sequence: u64, content: usize) -> ([u8; 13], usize) {
        let mut data = [0; 13];
        if self == Self::Tls13 {
            data[..HEADER_BYTES].copy_from_slice(&header);
            return (data, HEADER_BYTES);
        }
        data[..8].copy_from_slice(&sequence.to_be_bytes());
        data[8..11].copy_from_slice(&header[..3]);
        data[11..].copy_from_slice(&u16::try_from(content).unwrap_or(u16::MAX).to_be_bytes());
        (data, data.len())
    }
}

/// The key of one direction and how often it was used. ring does not wipe its expanded keys; the rest is wiped.
pub(super) struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    pub(super) sequence: u64,
}

impl Half {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Unsuitable> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Unsuitable),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Unsuitable)?;
        let iv = iv.as_ref().try_into().map_err(|_| Unsuitable)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    pub(super) fn is_gcm(&self) -> bool {
        *self.key.algorithm() != aead::CHACHA20_POLY1305
    }

    /// The nonce of the next record: RFC 8446 §5.3, RFC 7905 §2; rustls makes TLS 1.2's explicit nonces alike.
    pub(super) fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Opens what begins at `from` and ends with `record` into the beginning of `record`. `None`: it was not sealed
    /// with this key and this header, or not as the next one.
    pub(super) fn open<'b>(
        &mut self,
        layout: Layout,
        header: [u8; HEADER_BYTES],
        nonce: [u8; NONCE_LEN],
        record: &'b mut [u8],
        from: usize,
    ) -> Option<&'b [u8]> {
        let next = self.sequence.checked_add(1)?;
        let length = record.len().checked_sub(from.checked_add(TAG_BYTES)?)?;
        let (data, used) = layout.additional(header, self.sequence, length);
        let data = Aad::from(data.get(..used)?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let inner = self.key.open_within(nonce, data, record, from..).ok()?;
        self.sequence = next;
        Some(inner)
    }

    /// Seals `inner`, whose content is of that length, in place. `None`: no sequence number is left.
    pub(super) fn seal(
        &mut self,
        layout: Layout,
        header: [u8; HEADER_BYTES],
        inner: &mut [u8],
        length: usize,
    ) -> Option<Tag> {
        let next = self.sequence.checked_add(1)?;
        let nonce = Nonce::assume_unique_for_key(self.nonce());
        let (data, used) = layout.additional(header, self.sequence, length);
        let data = Aad::from(data.get(..used)?);
        let tag = self.key.seal_in_place_separate_tag(nonce, data, inner).ok()?;
        self.sequence = next;
        Some(tag)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}
