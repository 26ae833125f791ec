//! The engine without io_uring: epoll and ordinary system calls behind the same methods.
//!
//! Every socket is registered once, edge-triggered both ways, and remembered as readable and writable until a call
//! says otherwise. So receiving, stopping and sending need no call of epoll's own, and a socket whose bytes nobody
//! wants causes no events. A send is tried at once; what the kernel does not take waits for room.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_uring::{Chunk, Class, Event, Pool, SEND_CHUNKS, Settings, Socket, Stop, Token, Waker};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

/// Most events of the kernel's that one turn takes.
const EVENTS_MAX: usize = 256;
/// Most bytes that one socket receives in one turn: the others wait meanwhile.
const TURN_BYTES: usize = 64 * 1024;
/// Marks the waker among the sockets.
const WAKER: u64 = u64::MAX;

/// One thread's sockets, buffers and events.
pub(super) struct Epoll {
    epoll: OwnedFd,
    waker: Waker,
    places: Vec<Place>,
    free: Vec<u32>,
    sockets_max: usize,
    client_pool: Pool,
    server_pool: Pool,
    /// What has happened, and to which socket.
    events: VecDeque<(Socket, Event)>,
    woken: bool,
    /// Places that can go on without news from the kernel.
    work: VecDeque<u32>,
    /// How many of them belong to this turn.
    turn: usize,
    heard: Vec<epoll::Event>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    descriptor: Option<OwnedFd>,
    readable: bool,
    writable: bool,
    /// The end of the stream is behind the bytes that are there: a short read does not mean that all was read.
    hung_up: bool,
    receiving: Option<(Class, Token)>,
    sending: Option<Token>,
    /// What is left to send; empty without `sending`.
    outgoing: VecDeque<Chunk>,
    awaits_reading: Option<Token>,
    awaits_writing: Option<Token>,
    /// It is in the list of work.
    listed: bool,
}

impl Place {
    fn can_go_on(&self) -> bool {
        let reads = self.receiving.is_some() || self.awaits_reading.is_some();
        let writes = self.sending.is_some() || self.awaits_writing.is_some();
        (self.readable && reads) || (self.writable && writes)
    }
}

impl Epoll {
    pub(super) fn new(settings: &Settings) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Waker::new()?;
        epoll::add(&epoll, &waker, EventData::new_u64(WAKER), EventFlags::IN | EventFlags::ET)?;
        let pool = |class: Class, count| {
            let form = class.geometry();
            Pool::new(count, form.front, form.data, form.back)
        };
        Ok(Self {
            epoll,
            waker,
            places: Vec::new(),
            free: Vec::new(),
            sockets_max: usize::try_from(settings.sockets).unwrap_or(usize::MAX),
            client_pool: pool(Class::Client, settings.client_buffers)?,
            server_pool: pool(Class::Server, settings.server_buffers)?,
            events: VecDeque::new(),
            woken: false,
            work: VecDeque::new(),
            turn: 0,
            heard: Vec::with_capacity(EVENTS_MAX),
        })
    }

    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(super) fn add(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        if self.free.is_empty() {
            let next = u32::try_from(self.places.len()).ok().filter(|_| self.places.len() < self.sockets_max);
            self.free.push(next.ok_or_else(|| io::Error::other("the table of sockets is full"))?);
            self.places.push(Place::default());
        }
        let number = self.free.last().copied().unwrap_or_default();
        let generation = self.place(number).map_or(0, |place| place.generation);
        let key = Socket::new(number, generation);
        epoll::add(&self.epoll, &socket, data(key), interest())?;
        self.free.pop();
        if let Some(place) = self.place(number) {
            // Its state comes with the first events, except that room for sending may be taken for granted.
            let outgoing = std::mem::take(&mut place.outgoing);
            *place =
                Place { generation, descriptor: Some(socket), writable: true, outgoing, ..Place::default() };
        }
        Ok(key)
    }

    pub(super) fn receive(&mut self, socket: Socket, class: Class, token: Token) {
        if let Some(place) = self.live(socket) {
            place.receiving = Some((class, token));
            self.list(socket.place());
        }
    }

    pub(super) fn stop_receiving(&mut self, socket: Socket, token: Token) {
        let stopped = self.live(socket).is_some_and(|place| place.receiving.take().is_some());
        if stopped {
            self.events.push_back((socket, Event::Stopped { token, why: Stop::Asked }));
        }
    }

    pub(super) fn send(&mut self, socket: Socket, chunks: impl IntoIterator<Item = Chunk>, token: Token) {
        let Some(place) = self.live(socket) else { return };
        place.outgoing.extend(chunks.into_iter().take(SEND_CHUNKS));
        place.sending = Some(token);
        self.push_out(socket);
    }

    /// Says once when the descriptor is ready. Asks the kernel anew: the caller may have used it up in ways that are
    /// not seen here.
    pub(super) fn ready(&mut self, socket: Socket, write: bool, token: Token) {
        let Some(place) = self.live(socket) else { return };
        if write {
            (place.awaits_writing, place.writable) = (Some(token), false);
        } else {
            (place.awaits_reading, place.readable) = (Some(token), false);
        }
        let number = usize::try_from(socket.place()).unwrap_or(usize::MAX);
        let descriptor = self.places.get(number).and_then(|place| place.descriptor.as_ref());
        let renewed =
            descriptor.map(|descriptor| epoll::modify(&self.epoll, descriptor, data(socket), interest()));
        if matches!(renewed, Some(Err(_))) {
            // Whatever is wrong with it shows when it is used.
            self.note(socket, EventFlags::ERR);
        }
    }

    pub(super) fn fd(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        let place = self.places.get(usize::try_from(socket.place()).ok()?)?;
        let descriptor = place.descriptor.as_ref().filter(|_| place.generation == socket.generation())?;
        Some(descriptor.as_fd())
    }

    pub(super) fn shutdown(&mut self, socket: Socket, how: Shutdown) {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        if let Some(descriptor) = self.fd(socket) {
            // It fails only where the peer has cut the connection already, which is what is wanted.
            rustix::net::shutdown(descriptor, how).ok();
        }
    }

    pub(super) fn close(&mut self, socket: Socket) {
        let Some(place) = self.live(socket) else { return };
        place.generation = place.generation.wrapping_add(1);
        place.descriptor = None;
        place.outgoing.clear();
        (place.receiving, place.sending) = (None, None);
        (place.awaits_reading, place.awaits_writing) = (None, None);
        self.free.push(socket.place());
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let busy = self.woken || !self.events.is_empty() || !self.work.is_empty();
        let timeout = if busy { Some(Duration::ZERO) } else { timeout };
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut heard = std::mem::take(&mut self.heard);
        heard.clear();
        let outcome = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut heard), timeout.as_ref());
        for event in &heard {
            let (flags, data) = (event.flags, event.data.u64());
            if data == WAKER {
                self.waker.seen();
                self.woken = true;
            } else {
                self.note(socket_of(data), flags);
            }
        }
        self.heard = heard;
        self.turn = self.work.len();
        match outcome {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.woken) {
            return Some(Event::Woken);
        }
        loop {
            while let Some((socket, event)) = self.events.pop_front() {
                if self.live(socket).is_some() {
                    return Some(event);
                }
            }
            self.turn = self.turn.checked_sub(1)?;
            let number = self.work.pop_front()?;
            self.serve(number);
        }
    }

    /// Buffers of a class that are in no chunk.
    pub(super) fn available(&self, class: Class) -> usize {
        self.pool(class).free()
    }

    fn pool(&self, class: Class) -> &Pool {
        match class {
            Class::Client => &self.client_pool,
            Class::Server => &self.server_pool,
        }
    }

    fn place(&mut self, number: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(number).ok()?)
    }

    fn live(&mut self, socket: Socket) -> Option<&mut Place> {
        self.place(socket.place())
            .filter(|place| place.generation == socket.generation() && place.descriptor.is_some())
    }

    /// Takes in what the kernel says of a socket.
    fn note(&mut self, socket: Socket, flags: EventFlags) {
        let Some(place) = self.live(socket) else { return };
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        place.hung_up |= ended;
        place.readable |= ended || flags.contains(EventFlags::IN);
        place.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.list(socket.place());
    }

    fn list(&mut self, number: u32) {
        let Some(place) = self.place(number) else { return };
        if !place.listed && place.can_go_on() {
            place.listed = true;
            self.work.push_back(number);
        }
    }

    /// Does what one socket can do now.
    fn serve(&mut self, number: u32) {
        let Some(place) = self.place(number) else { return };
        place.listed = false;
        let socket = Socket::new(number, place.generation);
        let (readable, writable) = (place.readable, place.writable);
        let read = if readable { place.awaits_reading.take() } else { None };
        let write = if writable { place.awaits_writing.take() } else { None };
        let (sends, receives) = (place.sending.is_some(), place.receiving.is_some());
        for token in [read, write].into_iter().flatten() {
            self.events.push_back((socket, Event::Ready { token }));
        }
        if sends && writable {
            self.push_out(socket);
        }
        if receives && readable {
            self.take_in(socket);
        }
        self.list(number);
    }

    /// Sends what the kernel takes.
    fn push_out(&mut self, socket: Socket) {
        let Some(place) = self.live(socket) else { return };
        let (Some(token), Some(descriptor)) = (place.sending, place.descriptor.as_ref()) else { return };
        let result = loop {
            let mut slices = [IoSlice::new(&[]); SEND_CHUNKS];
            for (slice, chunk) in slices.iter_mut().zip(&place.outgoing) {
                *slice = IoSlice::new(chunk.bytes());
            }
            let count = place.outgoing.len().min(SEND_CHUNKS);
            let slices = slices.get(..count).unwrap_or_default();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(descriptor, slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(taken) => {
                    drop_front(&mut place.outgoing, taken);
                    if place.outgoing.is_empty() {
                        break Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    place.writable = false;
                    return;
                }
                Err(error) => break Err(error.into()),
            }
        };
        place.outgoing.clear();
        place.sending = None;
        self.events.push_back((socket, Event::Sent { token, result }));
    }

    /// Receives what is there, up to this turn's share.
    fn take_in(&mut self, socket: Socket) {
        let mut left = TURN_BYTES;
        while left > 0 {
            let Some(place) = self.live(socket) else { return };
            let Some((class, token)) = place.receiving else { return };
            let Some(mut chunk) = self.pool(class).take() else {
                self.end_receiving(socket, Event::Stopped { token, why: Stop::NoBuffer });
                return;
            };
            let room = class.geometry().data_room();
            let (start, size) = (room.start, room.len());
            let Some(place) = self.live(socket) else { return };
            let Some(descriptor) = place.descriptor.as_ref() else { return };
            let buffer = chunk.whole_mut().get_mut(room).unwrap_or_default();
            match rustix::net::recv(descriptor, buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return self.end_receiving(socket, Event::End { token }),
                Ok((count, _)) => {
                    chunk.set_range(start..start.saturating_add(count));
                    left = left.saturating_sub(count);
                    if count < size && !place.hung_up {
                        place.readable = false;
                        left = 0;
                    }
                    self.events.push_back((socket, Event::Received { token, chunk }));
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    place.readable = false;
                    return;
                }
                Err(error) => {
                    let why = Stop::Failed(error.into());
                    return self.end_receiving(socket, Event::Stopped { token, why });
                }
            }
        }
    }

    fn end_receiving(&mut self, socket: Socket, event: Event) {
        if let Some(place) = self.live(socket) {
            place.receiving = None;
        }
        self.events.push_back((socket, event));
    }
}

/// Names neither sockets nor bytes: there may be thousands.
impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

fn interest() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}

fn data(socket: Socket) -> EventData {
    EventData::new_u64((u64::from(socket.generation()) << 32) | u64::from(socket.place()))
}

fn socket_of(data: u64) -> Socket {
    let half = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
    Socket::new(half(data), half(data >> 32))
}

/// Forgets the first `count` bytes.
fn drop_front(chunks: &mut VecDeque<Chunk>, mut count: usize) {
    while let Some(chunk) = chunks.front_mut() {
        if count < chunk.len() {
            let range = chunk.range();
            chunk.set_range(range.start.saturating_add(count)..range.end);
            return;
        }
        count = count.saturating_sub(chunk.len());
        chunks.pop_front();
    }
}
