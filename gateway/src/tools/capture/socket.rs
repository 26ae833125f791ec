//! Frames as the network stack sees them: packet(7), without a ring and without promiscuous mode.
//!
//! A socket that is not bound sees all interfaces; a classic BPF program of three instructions keeps it to one, so that
//! the others cost nothing.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::CaptureError;

/// What is taken of a frame: more than all its headers.
pub(super) const SNAP: usize = 1024;
/// Packets that wait to be looked at.
const BUFFER: usize = 4 * 1024 * 1024;
/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` of if_arp.h: both have frames of Ethernet.
const ETHERNET: [u16; 2] = [1, 772];
const LOOPBACK: u16 = 772;
/// `PACKET_OUTGOING` of if_packet.h.
const OUTGOING: u8 = 4;
/// `SKF_AD_OFF + SKF_AD_IFINDEX` of linux/filter.h.
const INTERFACE_INDEX: u32 = 0xffff_f008;

/// A socket and what it needs.
#[derive(Debug)]
pub(super) struct Source {
    socket: Socket,
    index: Option<usize>,
    buffer: Vec<u8>,
    lost: u32,
}

/// A frame, or its beginning.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) bytes: &'a [u8],
    /// Of the whole frame.
    pub(super) length: usize,
    pub(super) at: SystemTime,
    /// Frames that did not fit so far.
    pub(super) lost: u32,
}

impl Source {
    pub(super) fn open(interface: Option<&str>) -> Result<Self, CaptureError> {
        let index = interface.map(index_of).transpose()?;
        let protocol = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be());
        let failed = |source| CaptureError::Io { what: "capture".to_owned(), source };
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)));
        let socket = socket.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EAFNOSUPPORT) => CaptureError::NotPermitted,
            _ => failed(error),
        })?;
        if let Some(index) = index {
            socket.attach_filter(&only(index)).map_err(failed)?;
        }
        // Less is no reason to give up: what does not fit is counted.
        socket.set_recv_buffer_size(BUFFER).ok();
        socket.set_nonblocking(true).map_err(failed)?;
        let set = setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
            .and_then(|()| setsockopt(&socket, sockopt::RxqOvfl, &1));
        set.map_err(|error| failed(error.into()))?;
        let index = index.and_then(|index| usize::try_from(index).ok());
        Ok(Self { socket, index, buffer: vec![0; SNAP], lost: 0 })
    }

    /// The next frame, or nothing where none comes in time.
    pub(super) fn next(&mut self, wait: Duration) -> io::Result<Option<Packet<'_>>> {
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut iov = [IoSliceMut::new(&mut self.buffer)];
        let mut space = nix::cmsg_space!(libc::timespec, u32);
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
            Ok(message) => message,
            // An interface that goes down says so here.
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR | nix::errno::Errno::ENETDOWN) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let (length, from) = (message.bytes, message.address);
        let mut at = SystemTime::now();
        let mut lost = self.lost;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(time) => {
                    at = SystemTime::UNIX_EPOCH + Duration::from(time);
                }
                ControlMessageOwned::RxqOvfl(count) => lost = count,
                _ => {}
            }
        }
        self.lost = lost;
        let Some(from) = from else { return Ok(None) };
        // Between the socket and its filter others may have come in; loopback shows each packet twice.
        let elsewhere = self.index.is_some_and(|index| index != from.ifindex());
        let twice = from.hatype() == LOOPBACK && from.pkttype() == OUTGOING;
        if elsewhere || twice || !ETHERNET.contains(&from.hatype()) {
            return Ok(None);
        }
        let bytes = self.buffer.get(..length.min(SNAP)).unwrap_or_default();
        Ok(Some(Packet { bytes, length, at, lost }))
    }
}

fn index_of(name: &str) -> Result<u32, CaptureError> {
    let unknown = || CaptureError::Interface(name.chars().take(64).collect());
    let legal = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > 15 || name.starts_with('.') || !name.chars().all(legal) {
        return Err(unknown());
    }
    let index = if_nametoindex(name).map_err(|_| unknown())?;
    let kind =
        std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("type")).unwrap_or_default();
    match kind.trim().parse() {
        Ok(kind) if !ETHERNET.contains(&kind) => Err(CaptureError::NotEthernet(name.to_owned())),
        // Where the kernel does not show it, each frame says it.
        _ => Ok(index),
    }
}

/// `ld ifindex; jeq INDEX; ret all; ret nothing`.
fn only(index: u32) -> [SockFilter; 4] {
    [
        SockFilter::new(0x20, 0, 0, INTERFACE_INDEX),
        SockFilter::new(0x15, 0, 1, index),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_interfaces_are_interfaces() {
        assert!(index_of("lo").is_ok());
        for name in ["", "..", "../lo", "nothing0", "x y", &"x".repeat(99)] {
            assert!(matches!(index_of(name), Err(CaptureError::Interface(_))), "{name}");
        }
    }
}
