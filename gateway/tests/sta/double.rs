//! Authorities that misbehave: a bare listener, and a script for each connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_proto::host_port::HostPort;
use portcullis_proto::sta::{ResponseTicket, TicketData, encode_error, encode_response_data};
use portcullis_proto::ticket::TicketSecret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::id;

/// A listener whose connections are served by a script; gone when dropped.
pub(crate) struct Double {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// One connection of a [`Double`].
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// 0 for the first.
    pub(crate) number: usize,
    requests: Arc<AtomicUsize>,
}

impl Double {
    pub(crate) async fn start<F>(script: impl Fn(Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&requests));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut peers = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                peers.spawn(script(Peer { stream, number, requests: Arc::clone(&seen) }));
            }
        });
        Self { address, connections, requests, _serving: serving }
    }

    /// Answers every request with the same bytes and closes.
    pub(crate) async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |mut peer| {
            let bytes = Arc::clone(&bytes);
            async move {
                if peer.request().await.is_some() {
                    peer.send(&bytes).await;
                }
            }
        })
        .await
    }

    /// An authority that issues tickets under this id and grants every ticket.
    pub(crate) async fn granting(authority: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while let Some(request) = peer.request().await {
                peer.send(&ok(&grant(authority, &request))).await;
            }
        })
        .await
    }

    /// Takes connections and requests and never says a word.
    pub(crate) async fn hanging() -> Self {
        Self::start(|mut peer| async move {
            while peer.request().await.is_some() {}
            std::future::pending::<()>().await;
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Complete requests on all connections.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Peer {
    /// One whole request, or `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).to_string();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_ascii_lowercase();
                let length = length.lines().find_map(|line| line.strip_prefix("content-length:"));
                if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                    self.requests.fetch_add(1, Ordering::SeqCst);
                    return Some(text);
                }
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The client may have gone meanwhile, which is its right.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }
}

/// What an authority of that id answers that knows every ticket.
pub(crate) fn grant(authority: &str, request: &str) -> String {
    if request.contains("RequestTicket") {
        let ticket = TicketSecret::from_random([1; 16]);
        ResponseTicket { authority: id(authority), ticket, version: 40 }.encode()
    } else {
        encode_response_data(&TicketData {
            ica_address: Some(HostPort::parse("10.9.9.9:1494").unwrap()),
            ..TicketData::default()
        })
    }
}

/// The same for one that knows none.
pub(crate) fn refuse(authority: &str, request: &str) -> String {
    if request.contains("RequestTicket") { grant(authority, request) } else { encode_error("no such ticket") }
}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    ok_bytes(body.as_bytes())
}

pub(crate) fn ok_bytes(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) fn status(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}
