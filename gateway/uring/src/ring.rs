//! The engine on io_uring: what a worker asks for. What the kernel answers is in `complete`.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{opcode, squeue};

use crate::buffer::{Chunk, Class};
use crate::event::{Event, Socket, Token};
use crate::group::Group;
use crate::label::{Kind, Label};
use crate::parcel::Parcel;
use crate::queue::Queue;
use crate::settings::{Settings, Unsupported};
use crate::setup::{self, Step, refused};
use crate::table::{Receiving, Sending, Table};
use crate::waker::Waker;

/// Parcels that are kept for the next sends.
const SPARE_PARCELS_MAX: usize = 256;
/// A ring that is dropped waits so often for its operations to end, and so long each time.
const DRAIN_ROUNDS: usize = 50;
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// Sockets, buffers and events of one thread.
///
/// It stays on the thread that made it: the kernel takes operations from no other.
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<portcullis_uring::Ring>();
/// ```
pub struct Ring {
    pub(crate) queue: Queue,
    /// What the kernel may read or write. Freed only when nothing is in flight any more.
    pub(crate) shared: ManuallyDrop<Shared>,
    /// Events on their way to `next`, with the socket that must still be open then. Bounded by the completions that were
    /// taken and the sends that had nothing to do.
    pub(crate) backlog: VecDeque<(Option<Socket>, Event)>,
    send_at_once: bool,
    waker: Waker,
    /// The waker's place in the kernel's table, behind the sockets.
    waker_place: u32,
    /// Operations that have not ended, the waker's included. Cancellations touch no memory and do not count.
    pub(crate) in_flight: usize,
    /// The ring is being dropped: nothing starts any more.
    pub(crate) ending: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// By [`class_number`].
    pub(crate) groups: [Group; 2],
    pub(crate) table: Table,
    pub(crate) parcels: Vec<Parcel>,
}

impl Ring {
    /// Builds, restricts and enables a ring for this thread.
    pub fn new(settings: &Settings) -> Result<Self, Unsupported> {
        let ring = setup::build(settings)?;
        let sockets = setup::make_table(&ring, settings)?;
        let group = |class: Class, count: u16| {
            let mut group = Group::new(class, count)?;
            // SAFETY: no operation runs yet, and `shared`, where the group will be, is freed after the last has ended.
            unsafe { group.register(&ring, class_number(class)) }.map(|()| group)
        };
        let make = |class: Class, count: u16| {
            group(class, count).map_err(|error| refused(&Step::Buffers(count), &error))
        };
        let groups =
            [make(Class::Client, settings.client_buffers)?, make(Class::Server, settings.server_buffers)?];
        let waker = Waker::new().map_err(|error| refused(&Step::Waker, &error))?;
        setup::enable(&ring)?;
        let shared = Shared { groups, table: Table::new(sockets), parcels: Vec::new() };
        let mut this = Self {
            queue: Queue::new(ring),
            shared: ManuallyDrop::new(shared),
            backlog: VecDeque::new(),
            send_at_once: settings.send_at_once,
            waker,
            waker_place: sockets,
            in_flight: 0,
            ending: false,
        };
        let placed = this.queue.update_file(sockets, this.waker.as_fd().as_raw_fd());
        placed.map_err(|error| refused(&Step::Waker, &error))?;
        this.watch_waker();
        Ok(this)
    }

    /// Gets this engine out of `wait`, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Takes a socket into the table and keeps it until `close`.
    pub fn add(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        let table = &mut self.shared.table;
        let mut place = table.reserve();
        if place.is_none() && table.closing() > 0 {
            // Places of sockets that were closed in this turn: their cancellations may not have been submitted yet.
            self.queue.enter(false, None)?;
            self.settle();
            place = self.shared.table.reserve();
        }
        let place = place.ok_or_else(|| io::Error::other("the table of sockets is full"))?;
        if let Err(error) = self.queue.update_file(place, socket.as_raw_fd()) {
            self.shared.table.release(place);
            return Err(error);
        }
        self.shared.table.occupy(place, socket).ok_or_else(|| io::Error::other("no such place"))
    }

    /// Receives until told otherwise: one `Received` for each arrival, then exactly one `End` or `Stopped`. Does nothing
    /// while the socket receives already.
    pub fn receive(&mut self, socket: Socket, class: Class, token: Token) {
        let Some(slot) = self.shared.table.open_mut(socket).filter(|slot| slot.receiving.is_none()) else {
            return;
        };
        let flight = slot.depart(token);
        slot.receiving = Some(Receiving { flight, class, asked: false });
        self.in_flight = self.in_flight.saturating_add(1);
        self.push_receive(socket.place(), flight.serial, class);
    }

    pub(crate) fn push_receive(&mut self, place: u32, serial: u32, class: Class) {
        let entry = opcode::RecvMulti::new(Fixed(place), class_number(class)).build();
        let entry = entry.user_data(Label::new(Kind::Receive, serial, place).encode());
        // SAFETY: the operation has no memory of its own: it takes lent buffers of a group, which stays.
        unsafe { self.queue.push(entry) };
    }

    /// Asks for the end of `receive`: bytes that came before still arrive, then comes `Stopped` with `Asked`, or `End` or
    /// another `Stopped` if that was on its way. Does nothing when `token` is not what the socket receives by.
    pub fn stop_receiving(&mut self, socket: Socket, token: Token) {
        let Some(receiving) = self.shared.table.open_mut(socket).and_then(|slot| slot.receiving.as_mut())
        else {
            return;
        };
        if receiving.flight.token != token || std::mem::replace(&mut receiving.asked, true) {
            return;
        }
        let serial = receiving.flight.serial;
        self.push_cancel(Label::new(Kind::Receive, serial, socket.place()));
    }

    /// Sends the chunks in their order, all bytes or an error, then says `Sent`. One at a time on each socket, at most
    /// [`SEND_CHUNKS`](crate::SEND_CHUNKS) chunks: anything else is a `Sent` with an error.
    pub fn send(&mut self, socket: Socket, chunks: impl IntoIterator<Item = Chunk>, token: Token) {
        self.send_before(socket, chunks, token, false);
    }

    /// The same, where a `shutdown` follows at once: the last bytes and the end of the stream become one packet.
    pub fn send_last(&mut self, socket: Socket, chunks: impl IntoIterator<Item = Chunk>, token: Token) {
        self.send_before(socket, chunks, token, true);
    }

    fn send_before(
        &mut self,
        socket: Socket,
        chunks: impl IntoIterator<Item = Chunk>,
        token: Token,
        last: bool,
    ) {
        let Shared { table, parcels, .. } = &mut *self.shared;
        let Some(slot) = table.open_mut(socket) else {
            return;
        };
        if slot.sending.is_some() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the socket is sending already");
            self.backlog.push_back((Some(socket), Event::Sent { token, result: Err(error) }));
            return;
        }
        let mut parcel = parcels.pop().unwrap_or_else(Parcel::new);
        let mut result = parcel.fill(chunks);
        let at_once = self.send_at_once && result.is_ok() && parcel.is_small();
        if let Some(descriptor) = slot.descriptor.as_ref().filter(|_| at_once) {
            result = parcel.send_at_once(descriptor, last);
        }
        if result.is_err() || parcel.is_done() {
            self.store_parcel(parcel);
            self.backlog.push_back((Some(socket), Event::Sent { token, result }));
            return;
        }
        let flight = slot.depart(token);
        slot.sending = Some(Sending { flight, parcel });
        self.in_flight = self.in_flight.saturating_add(1);
        self.push_send(socket.place());
    }

    /// Submits what is left of the parcel of this place.
    pub(crate) fn push_send(&mut self, place: u32) {
        let Some(sending) = self.shared.table.get_mut(place).and_then(|slot| slot.sending.as_mut()) else {
            return;
        };
        let label = Label::new(Kind::Send, sending.flight.serial, place);
        let entry = sending.parcel.entry(place).user_data(label.encode());
        // SAFETY: header, pieces and chunks stay in the parcel, and the parcel in the table, until the completion of this
        // label; `shared` is not freed before. Nobody has a reference to the chunks meanwhile.
        unsafe { self.queue.push(entry) };
    }

    pub(crate) fn store_parcel(&mut self, mut parcel: Parcel) {
        parcel.clear();
        if self.shared.parcels.len() < SPARE_PARCELS_MAX {
            self.shared.parcels.push(parcel);
        }
    }

    /// Says `Ready` once when the socket can be read (or the peer has ended) or written, or has failed. Does nothing while
    /// the same is asked already.
    pub fn ready(&mut self, socket: Socket, write: bool, token: Token) {
        let Some(slot) = self.shared.table.open_mut(socket) else {
            return;
        };
        if slot.poll_mut(write).is_some() {
            return;
        }
        let flight = slot.depart(token);
        *slot.poll_mut(write) = Some(flight);
        self.in_flight = self.in_flight.saturating_add(1);
        let (kind, events) = if write {
            (Kind::PollWrite, libc::POLLOUT)
        } else {
            (Kind::PollRead, libc::POLLIN | libc::POLLRDHUP)
        };
        let label = Label::new(kind, flight.serial, socket.place());
        self.push_poll(socket.place(), events, false, label);
    }

    fn push_poll(&mut self, place: u32, events: i16, multi: bool, label: Label) {
        let events = u32::from(events.unsigned_abs());
        let entry = opcode::PollAdd::new(Fixed(place), events).multi(multi).build();
        // SAFETY: the operation has no memory.
        unsafe { self.queue.push(entry.user_data(label.encode())) };
    }

    /// One event for each time that the counter of the waker grows, which is never read (see [`Waker`]).
    pub(crate) fn watch_waker(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.push_poll(self.waker_place, libc::POLLIN, true, Label::alone(Kind::Wake));
    }

    pub(crate) fn waker_seen(&self) {
        self.waker.seen();
    }

    /// For splice(2), shutdown(2), getsockopt(2).
    #[must_use]
    pub fn fd(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        self.shared.table.open(socket)?.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Shuts the socket down at once; what is being sent may be lost. A socket that is not connected any more is left
    /// as it is.
    pub fn shutdown(&mut self, socket: Socket, how: Shutdown) {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        if let Some(descriptor) = self.fd(socket) {
            rustix::net::shutdown(descriptor, how).ok();
        }
    }

    /// Gives the socket up: no event of it comes any more, what is in flight is cancelled, and its place is used again
    /// when that has ended.
    pub fn close(&mut self, socket: Socket) {
        let Some(slot) = self.shared.table.begin_closing(socket) else {
            return;
        };
        for (kind, serial) in slot.flights() {
            self.push_cancel(Label::new(kind, serial, socket.place()));
        }
        self.finish_closing(socket.place());
    }

    /// The place is free again if nothing is in flight on it.
    pub(crate) fn finish_closing(&mut self, place: u32) {
        if let Some(descriptor) = self.shared.table.take_closed(place) {
            // Without memory for it the kernel keeps its hold of the socket until the place is used again.
            drop(self.queue.update_file(place, -1));
            drop(descriptor);
            self.shared.table.release(place);
        }
    }

    /// Success has no completion; failure means that there is nothing to cancel any more.
    fn push_cancel(&mut self, label: Label) {
        let entry = opcode::AsyncCancel::new(label.encode()).build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the operation has no memory.
        unsafe { self.queue.push(entry.user_data(Label::alone(Kind::Cancel).encode())) };
    }

    /// One call into the kernel: gives it buffers back, submits everything, and waits for at least one event, if none is
    /// there yet, for `timeout` at most.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.groups.iter_mut().for_each(Group::give_back);
        self.queue.enter(self.backlog.is_empty(), timeout)
    }

    /// Whether [`set_gather`](Self::set_gather) does something: the kernel can (Linux 6.12).
    #[must_use]
    pub fn can_gather(&self) -> bool {
        self.queue.can_gather()
    }

    /// From now on `wait` may hold events back for so long to hand out several at once. Zero, as at first: not at all.
    pub fn set_gather(&mut self, time: Duration) {
        self.queue.set_gather(time);
    }

    /// Calls of `io_uring_enter` so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.queue.enters()
    }

    /// Buffers of a class that no chunk holds. After a `NoBuffer`, receive again when there are some.
    #[must_use]
    pub fn available(&self, class: Class) -> usize {
        self.shared.groups.get(usize::from(class_number(class))).map_or(0, Group::available)
    }

    /// How many operations have not ended, those of closed sockets included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

/// The number of a class's group, for the kernel and in the list here.
pub(crate) const fn class_number(class: Class) -> u16 {
    match class {
        Class::Client => 0,
        Class::Server => 1,
    }
}

impl Drop for Ring {
    /// Ends all operations before their memory is freed. What does not end in time keeps its memory for good.
    fn drop(&mut self) {
        self.ending = true;
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(Label::alone(Kind::Cancel).encode());
        // SAFETY: the operation has no memory.
        unsafe { self.queue.push(cancel) };
        for _ in 0..DRAIN_ROUNDS {
            if self.in_flight == 0 {
                break;
            }
            // A failure is met by trying again, so often as said.
            drop(self.queue.enter(true, Some(DRAIN_WAIT)));
            self.settle();
        }
        if self.in_flight == 0 {
            // SAFETY: it is not used after this, and no operation is left that could touch its memory.
            unsafe { ManuallyDrop::drop(&mut self.shared) };
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("queue", &self.queue)
            .field("in_flight", &self.in_flight)
            .field("groups", &self.shared.groups)
            .finish_non_exhaustive()
    }
}
