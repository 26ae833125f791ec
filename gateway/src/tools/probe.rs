//! One question to an address and what comes back: an echo (RFC 792, RFC 4443) or a datagram, with a bound on hops where
//! the way is to be seen.
//!
//! No privilege is needed: ICMP goes over the kernel's datagram sockets (icmp(7), `net.ipv4.ping_group_range`), and what
//! routers say is in the error queue of the socket that asked (ip(7), `IP_RECVERR`). Each question has a socket of its
//! own, so that a late answer to another cannot be taken for its own.

use std::io::{self, IoSliceMut, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Where datagrams of a trace go: nobody listens there (traceroute(8)).
const UDP_PORT: u16 = 33434;
const ECHO_HEADER: usize = 8;
/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` of linux/errqueue.h.
const FROM_ICMP: [u8; 2] = [2, 3];

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// `answer`, `exceeded` (a router on the way), `unreachable` or `silence`.
    pub outcome: String,
    /// Who said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// Why it is unreachable, or what the system said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceMethod {
    Icmp,
    Udp,
}

impl TraceMethod {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Udp => "udp",
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) to: IpAddr,
    pub(crate) from: Option<IpAddr>,
    pub(crate) method: TraceMethod,
    /// How many routers it may pass, and one more; `None`: as the system has it.
    pub(crate) hops: Option<u8>,
    pub(crate) size: usize,
    pub(crate) wait: Duration,
    pub(crate) number: u16,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Answer(Option<IpAddr>),
    /// A router on the way.
    Exceeded(Option<IpAddr>),
    Unreachable(Option<IpAddr>, &'static str),
    Silence,
}

/// Asks, and waits for what comes.
///
/// # Errors
/// What the system says to the question itself: no route, not permitted, no such socket.
pub(crate) fn ask(question: &Question) -> io::Result<Probe> {
    let mut socket = open(question)?;
    let asked = Instant::now();
    socket.send(&message(question))?;
    let heard = listen(&mut socket, question, asked + question.wait)?;
    let rtt_ms = asked.elapsed().as_secs_f64() * 1000.0;
    let (outcome, from, detail) = match heard {
        Heard::Answer(from) => ("answer", Some(from.unwrap_or(question.to)), ""),
        Heard::Exceeded(from) => ("exceeded", from, ""),
        Heard::Unreachable(from, why) => ("unreachable", from, why),
        Heard::Silence => ("silence", None, ""),
    };
    Ok(Probe {
        outcome: outcome.to_owned(),
        from,
        detail: detail.to_owned(),
        rtt_ms: (outcome != "silence").then(|| (rtt_ms * 1000.0).round() / 1000.0),
    })
}

/// Whether the kernel lets this process ask by ICMP.
pub(crate) fn icmp_is_allowed(to: IpAddr) -> io::Result<()> {
    icmp(to).map(drop)
}

fn icmp(to: IpAddr) -> io::Result<Socket> {
    match to {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)),
        IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)),
    }
}

fn open(question: &Question) -> io::Result<Socket> {
    let (socket, port) = match question.method {
        TraceMethod::Icmp => (icmp(question.to)?, 0),
        TraceMethod::Udp => {
            let domain = if question.to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let port = UDP_PORT.saturating_add(question.number % 128);
            (Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?, port)
        }
    };
    if question.to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        question.hops.map(|hops| socket.set_ttl_v4(hops.into())).transpose()?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        question.hops.map(|hops| socket.set_unicast_hops_v6(hops.into())).transpose()?;
    }
    if let Some(from) = question.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    // The packet filter's policy of what leaves looks at this, and errors are told to connected sockets.
    socket.connect(&SocketAddr::new(question.to, port).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The kernel fills in identifier and checksum of an echo.
fn message(question: &Question) -> Vec<u8> {
    let padding = b"portcullis ".iter().copied().cycle().take(question.size);
    match question.method {
        TraceMethod::Udp => padding.collect(),
        TraceMethod::Icmp => {
            let kind = if question.to.is_ipv4() { 8 } else { 128 };
            let [high, low] = question.number.to_be_bytes();
            [kind, 0, 0, 0, 0, 0, high, low].into_iter().chain(padding).collect()
        }
    }
}

fn listen(socket: &mut Socket, question: &Question, until: Instant) -> io::Result<Heard> {
    let mut buffer = vec![0; question.size + ECHO_HEADER];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut watched = [PollFd::new(&*socket, PollFlags::IN)];
        match poll(&mut watched, Some(&wait)) {
            Ok(0) => return Ok(Heard::Silence),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(heard) = router(socket, question)? {
            return Ok(heard);
        }
        match socket.read(&mut buffer) {
            Ok(length) if is_answer(question, buffer.get(..length).unwrap_or_default()) => {
                return Ok(Heard::Answer(None));
            }
            Ok(_) => {}
            // The socket's pending error: what it was is in the queue, which is looked at next.
            Err(error) if is_told(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_told(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock};
    let kinds = [ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::EPROTO)
}

fn is_answer(question: &Question, message: &[u8]) -> bool {
    match question.method {
        TraceMethod::Udp => true,
        TraceMethod::Icmp => {
            let kind = if question.to.is_ipv4() { 0 } else { 129 };
            message.first() == Some(&kind) && message.get(6..8) == Some(&question.number.to_be_bytes())
        }
    }
}

/// What somebody on the way said, if somebody did.
fn router(socket: &Socket, question: &Question) -> io::Result<Option<Heard>> {
    let mut buffer = [0; 256];
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
        Ok(message) => message,
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for control in message.cmsgs()? {
        let (error, from) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let address = |from: libc::sockaddr_in| Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
                (error, from.map(|from| IpAddr::from(address(from))))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::from(Ipv6Addr::from(from.sin6_addr.s6_addr))))
            }
            _ => continue,
        };
        if FROM_ICMP.contains(&error.ee_origin) {
            return Ok(Some(meaning(question, error.ee_type, error.ee_code, from)));
        }
        let local = i32::try_from(error.ee_errno).unwrap_or(libc::EIO);
        return Err(io::Error::from_raw_os_error(local));
    }
    Ok(None)
}

/// RFC 792 and RFC 1812 §5.2.7.1, RFC 4443 §3.
fn meaning(question: &Question, kind: u8, code: u8, from: Option<IpAddr>) -> Heard {
    let why = match (question.to.is_ipv4(), kind, code) {
        (true, 11, _) | (false, 3, _) => return Heard::Exceeded(from),
        // Nobody listens at that port of the host: it was reached.
        (true, 3, 3) | (false, 1, 4) if question.method == TraceMethod::Udp => return Heard::Answer(from),
        (true, 3, 0 | 6 | 11) | (false, 1, 0) => "no route to that network",
        (true, 3, 1 | 7 | 12) | (false, 1, 3) => "the host does not answer to its router",
        (true, 3, 2) => "the host does not speak that protocol",
        (true, 3, 3) | (false, 1, 4) => "nobody listens at that port",
        (true, 3, 4) | (false, 2, _) => "the packet is too big for the next link",
        (true, 3, 9 | 10 | 13) | (false, 1, 1 | 5 | 6) => "prohibited by a router or firewall",
        _ => "it cannot be delivered",
    };
    Heard::Unreachable(from, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(to: &str, method: TraceMethod) -> Question {
        Question {
            to: to.parse().unwrap(),
            from: None,
            method,
            hops: None,
            size: 16,
            wait: Duration::from_secs(5),
            number: 7,
        }
    }

    #[test]
    fn an_echo_has_the_form_of_its_family() {
        let message = message(&question("192.0.2.1", TraceMethod::Icmp));
        assert_eq!(message.get(..8).unwrap(), [8, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(message.len(), 24);
        assert_eq!(super::message(&question("2001:db8::1", TraceMethod::Icmp)).first(), Some(&128));
        assert!(is_answer(&question("192.0.2.1", TraceMethod::Icmp), &[0, 0, 1, 2, 3, 4, 0, 7]));
        assert!(!is_answer(&question("192.0.2.1", TraceMethod::Icmp), &[0, 0, 1, 2, 3, 4, 0, 8]));
    }

    #[test]
    fn what_routers_say_has_a_meaning() {
        let from: IpAddr = "192.0.2.9".parse().unwrap();
        let icmp = question("192.0.2.1", TraceMethod::Icmp);
        assert_eq!(meaning(&icmp, 11, 0, Some(from)), Heard::Exceeded(Some(from)));
        assert!(
            matches!(meaning(&icmp, 3, 13, None), Heard::Unreachable(None, why) if why.contains("prohibited"))
        );
        let udp = question("2001:db8::1", TraceMethod::Udp);
        assert_eq!(meaning(&udp, 1, 4, Some(from)), Heard::Answer(Some(from)));
        assert_eq!(meaning(&udp, 3, 0, Some(from)), Heard::Exceeded(Some(from)));
    }

    #[test]
    fn a_port_where_nobody_listens_answers_on_loopback() {
        let probe = ask(&question("127.0.0.1", TraceMethod::Udp)).unwrap();
        assert_eq!(probe.outcome, "answer");
        assert!(probe.rtt_ms.is_some());
    }
}
