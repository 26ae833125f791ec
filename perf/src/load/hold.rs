//! Sessions that have said one thing and then nothing: what most of a gateway's are at any time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::wait;

use super::PATIENCE;
use super::connection::{Clients, Connection, Entry, Received};
use crate::backend;
use crate::interrupt;

const MESSAGE: [u8; 256] = [b'h'; 256];
const BUFFER_BYTES: usize = 32 * 1_024;
/// Sessions that are opened before their echoes are awaited.
const BATCH: usize = 100;
/// More than any page of metrics.
const PAGE_MAX_BYTES: u64 = 16 << 20;

/// Open sessions of one contender.
pub(crate) struct Hold {
    entry: Entry,
    connections: Vec<Connection>,
}

impl Hold {
    pub(crate) fn new(entry: Entry) -> Self {
        Self { entry, connections: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.len()
    }

    /// Opens sessions until there are so many, each with one message there and back.
    pub(crate) fn grow(&mut self, clients: &Clients, count: usize) -> Result<()> {
        while self.connections.len() < count {
            interrupt::check()?;
            let batch = BATCH.min(count - self.connections.len());
            let mut new = Connection::open_many(self.entry, clients, batch)?;
            let held = self.connections.len();
            let said = new.iter_mut().try_for_each(|connection| {
                connection.send(&[backend::ECHO])?;
                connection.send(&MESSAGE)
            });
            said.and_then(|()| new.iter_mut().try_for_each(echoed))
                .with_context(|| format!("a message on the sessions after number {held}"))?;
            self.connections.extend(new);
        }
        Ok(())
    }

    /// How many still bring a message back.
    pub(crate) fn alive(&mut self) -> usize {
        let answers =
            |connection: &mut Connection| connection.send(&MESSAGE).and_then(|()| echoed(connection)).is_ok();
        self.connections.iter_mut().filter_map(|connection| answers(connection).then_some(())).count()
    }
}

fn echoed(connection: &mut Connection) -> Result<()> {
    let (mut buffer, mut left) = (vec![0; BUFFER_BYTES], MESSAGE.len());
    wait::attempt(PATIENCE, "an echo", || {
        match connection.receive(&mut buffer)? {
            Received::Bytes(count) => left = left.saturating_sub(count),
            Received::End => bail!("the session was ended"),
        }
        Ok::<_, anyhow::Error>((left == 0).then_some(()))
    })
}

/// Reads the page of metrics once; returns how long that took, and the page.
pub(crate) fn scrape(address: SocketAddr) -> Result<(Duration, String)> {
    let begin = Instant::now();
    let mut tcp = TcpStream::connect_timeout(&address, PATIENCE).context("connect to the metrics")?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    tcp.take(PAGE_MAX_BYTES).read_to_string(&mut page).context("read the metrics")?;
    ensure!(page.starts_with("HTTP/1.1 200"), "the metrics are refused: {:?}", page.lines().next());
    Ok((begin.elapsed(), page))
}
