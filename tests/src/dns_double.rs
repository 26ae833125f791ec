//! A DNS server (RFC 1035) of few words: it knows some names, or keeps silent, or answers when it is told to.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct DnsDouble {
    address: SocketAddr,
    silent: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    names: Arc<Mutex<HashMap<String, Ipv4Addr>>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsDouble {
    /// Starts a server that knows these names and says of all others that they do not exist.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub fn start(names: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.79:0").context("bind the DNS server")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let known = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let mut server = Self {
            address: socket.local_addr()?,
            silent: Arc::default(),
            stopped: Arc::default(),
            asked: Arc::default(),
            names: Arc::new(Mutex::new(known)),
            thread: None,
        };
        let (silent, stopped) = (Arc::clone(&server.silent), Arc::clone(&server.stopped));
        let (asked, names) = (Arc::clone(&server.asked), Arc::clone(&server.names));
        server.thread = Some(thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                if silent.load(Ordering::Relaxed) {
                    continue;
                }
                let names = names.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(query.get(..length).unwrap_or_default(), &names) {
                    // A resolver that is gone gets no answer.
                    drop(socket.send_to(&answer, from));
                }
            }
        }));
        Ok(server)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets all questions go unanswered, or answers again.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Gives a name another address.
    pub fn set(&self, name: &str, address: Ipv4Addr) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), address);
    }

    /// Questions so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for DnsDouble {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// RFC 1035 §4.1: the answer to one question of class IN.
fn answer(query: &[u8], names: &HashMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let (name, end) = question_name(query)?;
    let kind = query.get(end..end + 2)?;
    let question = query.get(HEADER_BYTES..end + 4)?;
    let address = names.get(&name);
    let record = address.filter(|_| kind == TYPE_A);
    // QR and AA, recursion as it was asked for; NXDOMAIN (3) for names that are not known.
    let flags = [0x84 | query.get(2)? & 1, if address.is_some() { 0x80 } else { 0x83 }];
    let answers = u8::from(record.is_some());
    let mut bytes = [query.get(..2)?, &flags, &[0, 1, 0, answers, 0, 0, 0, 0], question].concat();
    if let Some(address) = record {
        // A pointer to the name, type A, class IN, no time to live so that nothing is cached, four bytes.
        bytes.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        bytes.extend_from_slice(&address.octets());
    }
    Some(bytes)
}

/// The name of the question in lower case, and where its type begins.
fn question_name(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_has_its_address_and_an_unknown_one_has_none() {
        let server = DnsDouble::start(&[("a.test", Ipv4Addr::new(192, 0, 2, 7))]).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(crate::wait::PATIENCE)).unwrap();
        let ask = |label: u8| {
            let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            let query = [&head[..], &[1, label], b"\x04test\x00\x00\x01\x00\x01"].concat();
            client.send_to(&query, server.address()).unwrap();
            let mut answer = [0; 512];
            let length = client.recv(&mut answer).unwrap();
            answer[..length].to_vec()
        };
        let known = ask(b'A');
        assert_eq!((known[3], known[7], &known[known.len() - 4..]), (0x80, 1, &[192, 0, 2, 7][..]));
        let unknown = ask(b'b');
        assert_eq!((unknown[3], unknown[7]), (0x83, 0));
    }
}
