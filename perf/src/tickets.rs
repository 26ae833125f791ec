//! A stock of tickets, issued over the daemon's control socket before they are needed.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_proto::socks5::{Address, Command, Name, Request};
use serde_json::{Value, json};

use crate::load::PATIENCE;

/// More sessions a second than any contender sets up on one core.
const SESSIONS_PER_SECOND: u32 = 10_000;
/// Half of what the daemon keeps by default.
const STOCK_MAX: usize = 50_000;
/// Requests that go out before their answers are read: small enough for both sockets' buffers.
const PIPELINE: usize = 64;

pub(crate) struct Tickets {
    socket: PathBuf,
    target: SocketAddr,
    /// Whole requests, so that a session costs the load as little as possible.
    stock: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("stock", &self.stock.len()).finish_non_exhaustive()
    }
}

impl Tickets {
    pub(crate) fn new(socket: PathBuf, target: SocketAddr) -> Self {
        Self { socket, target, stock: VecDeque::new() }
    }

    /// Fills the stock up to more than can be used in `time`.
    pub(crate) fn stock_for(&mut self, time: Duration) -> Result<()> {
        let tenths = u32::try_from(time.as_millis() / 100)?.saturating_add(1);
        let wanted = usize::try_from(tenths.saturating_mul(SESSIONS_PER_SECOND / 10))?.min(STOCK_MAX);
        let shown = self.socket.display();
        let stream = UnixStream::connect(&self.socket).with_context(|| format!("connect to {shown}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        let order = json!({"v": 1, "cmd": "ticket-issue", "target": self.target.to_string()});
        while self.stock.len() < wanted {
            let count = PIPELINE.min(wanted - self.stock.len());
            writer.write_all(format!("{order}\n").repeat(count).as_bytes()).context("ask for tickets")?;
            for _ in 0..count {
                let mut line = String::new();
                reader.read_line(&mut line).context("read a ticket")?;
                self.stock.push_back(request(&ticket(&line)?)?);
            }
        }
        Ok(())
    }

    /// A bare SOCKS5 request with the next ticket as its domain name.
    pub(crate) fn request(&mut self) -> Option<Vec<u8>> {
        self.stock.pop_front()
    }
}

/// The port beside a ticket means nothing: the ticket says where to.
const PORT: u16 = 1_494;

fn request(ticket: &str) -> Result<Vec<u8>> {
    let name = Name::parse(ticket.as_bytes()).context("the daemon's ticket fits no SOCKS5 request")?;
    Ok(Request { command: Command::Connect, address: Address::Name(name), port: PORT }.encode())
}

fn ticket(line: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(line).context("the answer to ticket-issue is no JSON")?;
    let found = answer.pointer("/data/ticket").and_then(Value::as_str);
    if let Some(ticket) = found {
        return Ok(ticket.to_owned());
    }
    let message = answer.pointer("/error/message").and_then(Value::as_str);
    bail!("the daemon issues no ticket: {}", message.unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_ticket_as_domain_name() {
        assert_eq!(request(";40;S").unwrap(), *b"\x05\x01\x00\x03\x05;40;S\x05\xD6");
    }

    #[test]
    fn tickets_and_refusals_are_told_apart() {
        assert_eq!(ticket(r#"{"ok":true,"data":{"ticket":";40;S"}}"#).unwrap(), ";40;S");
        let refusal = r#"{"ok":false,"error":{"code":"refused","message":"the store is full"}}"#;
        assert!(ticket(refusal).unwrap_err().to_string().contains("the store is full"));
        assert!(ticket("hello").is_err());
    }
}
