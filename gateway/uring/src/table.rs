//! The sockets of a ring, and what is in flight on each.

use std::os::fd::OwnedFd;

use crate::buffer::Class;
use crate::event::{Socket, Token};
use crate::label::{Kind, Label};
use crate::parcel::Parcel;

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) serial: u32,
    pub(crate) token: Token,
}

#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) flight: Flight,
    pub(crate) class: Class,
    /// Someone wants it to stop.
    pub(crate) asked: bool,
}

#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) flight: Flight,
    /// The kernel may read what is in here until the completion.
    pub(crate) parcel: Parcel,
}

/// One place of the table: free, in use, or being closed.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    generation: u32,
    serial: u32,
    pub(crate) descriptor: Option<OwnedFd>,
    /// Nothing of it reaches the caller any more; free when nothing is in flight.
    pub(crate) closing: bool,
    pub(crate) receiving: Option<Receiving>,
    pub(crate) sending: Option<Sending>,
    pub(crate) poll_read: Option<Flight>,
    pub(crate) poll_write: Option<Flight>,
}

impl Slot {
    /// How the caller knows what is here, until it closes it.
    pub(crate) fn socket(&self, place: u32) -> Socket {
        Socket::new(place, self.generation)
    }

    /// The next operation of this place.
    pub(crate) fn depart(&mut self, token: Token) -> Flight {
        self.serial = self.serial.wrapping_add(1) & Label::SERIAL_MASK;
        Flight { serial: self.serial, token }
    }

    pub(crate) fn poll_mut(&mut self, write: bool) -> &mut Option<Flight> {
        if write { &mut self.poll_write } else { &mut self.poll_read }
    }

    /// Whether the label is of an operation that is in flight here.
    pub(crate) fn knows(&self, label: Label) -> bool {
        let serial = match label.kind {
            Kind::Receive => self.receiving.as_ref().map(|receiving| receiving.flight.serial),
            Kind::Send => self.sending.as_ref().map(|sending| sending.flight.serial),
            Kind::PollRead => self.poll_read.map(|flight| flight.serial),
            Kind::PollWrite => self.poll_write.map(|flight| flight.serial),
            Kind::Cancel | Kind::Wake => None,
        };
        serial == Some(label.serial)
    }

    /// What is in flight, at most one of each kind.
    pub(crate) fn flights(&self) -> impl Iterator<Item = (Kind, u32)> + use<> {
        let all = [
            (Kind::Receive, self.receiving.as_ref().map(|receiving| receiving.flight.serial)),
            (Kind::Send, self.sending.as_ref().map(|sending| sending.flight.serial)),
            (Kind::PollRead, self.poll_read.map(|flight| flight.serial)),
            (Kind::PollWrite, self.poll_write.map(|flight| flight.serial)),
        ];
        all.into_iter().filter_map(|(kind, serial)| Some((kind, serial?)))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flights().next().is_none()
    }
}

/// All places. The table grows up to its size; a place is used again only when nothing of its last use is in flight.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    size: u32,
    closing: usize,
}

impl Table {
    pub(crate) fn new(size: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), size, closing: 0 }
    }

    /// A free place; none when the table is full.
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let place = u32::try_from(self.slots.len()).ok().filter(|place| *place < self.size)?;
        self.slots.push(Slot::default());
        Some(place)
    }

    /// A reserved place gets its socket.
    pub(crate) fn occupy(&mut self, place: u32, descriptor: OwnedFd) -> Option<Socket> {
        let slot = self.get_mut(place)?;
        slot.descriptor = Some(descriptor);
        slot.closing = false;
        Some(slot.socket(place))
    }

    /// A place that nobody uses can be reserved again.
    pub(crate) fn release(&mut self, place: u32) {
        self.free.push(place);
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(place).ok()?)
    }

    pub(crate) fn open(&self, socket: Socket) -> Option<&Slot> {
        let slot = self.slots.get(usize::try_from(socket.place()).ok()?)?;
        (slot.generation == socket.generation() && slot.descriptor.is_some() && !slot.closing).then_some(slot)
    }

    pub(crate) fn open_mut(&mut self, socket: Socket) -> Option<&mut Slot> {
        self.open(socket)?;
        self.get_mut(socket.place())
    }

    /// From now on the socket is unknown to the caller.
    pub(crate) fn begin_closing(&mut self, socket: Socket) -> Option<&mut Slot> {
        self.open(socket)?;
        self.closing = self.closing.saturating_add(1);
        let slot = self.get_mut(socket.place())?;
        slot.closing = true;
        slot.generation = slot.generation.wrapping_add(1);
        Some(slot)
    }

    /// The descriptor of a place that is being closed and has nothing in flight any more.
    pub(crate) fn take_closed(&mut self, place: u32) -> Option<OwnedFd> {
        let slot = self.get_mut(place).filter(|slot| slot.closing && slot.is_idle())?;
        slot.closing = false;
        let descriptor = slot.descriptor.take();
        self.closing = self.closing.saturating_sub(1);
        descriptor
    }

    /// How many places become free when what is in flight has ended.
    pub(crate) fn closing(&self) -> usize {
        self.closing
    }
}
