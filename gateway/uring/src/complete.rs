//! What the kernel's answers mean for the caller.

use std::io;

use io_uring::cqueue;

use crate::buffer::{Chunk, Class};
use crate::event::{Event, Stop};
use crate::group::Group;
use crate::label::{Kind, Label};
use crate::ring::{Ring, class_number};
use crate::table::{Receiving, Sending};

/// One completion.
struct Answer {
    label: Label,
    /// A count of bytes, or the negative of an error number.
    result: i32,
    /// More completions of the same operation will come.
    more: bool,
    buffer: Option<u16>,
}

impl Answer {
    fn read(entry: &cqueue::Entry) -> Option<Self> {
        let flags = entry.flags();
        let (more, buffer) = (cqueue::more(flags), cqueue::buffer_select(flags));
        Some(Self { label: Label::decode(entry.user_data())?, result: entry.result(), more, buffer })
    }

    fn bytes(&self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(self.result.saturating_neg()))
    }

    fn failed_with(&self, code: i32) -> bool {
        self.result == code.saturating_neg()
    }
}

impl Ring {
    /// The next event that is there; none until the next [`Ring::wait`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an engine is no iterator: new events come after an end"
    )]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((socket, event)) = self.backlog.pop_front() {
                if socket.is_none_or(|socket| self.shared.table.open(socket).is_some()) {
                    return Some(event);
                }
            }
            let entry = self.queue.pop()?;
            self.complete(&entry);
        }
    }

    /// Takes all completions that are there; their events wait for `next`.
    pub(crate) fn settle(&mut self) {
        while let Some(entry) = self.queue.pop() {
            self.complete(&entry);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) {
        let Some(answer) = Answer::read(entry) else {
            debug_assert!(false, "every operation has a label");
            return;
        };
        match answer.label.kind {
            Kind::Cancel => {}
            Kind::Wake => self.woken(&answer),
            Kind::Receive => self.received(&answer),
            Kind::Send => self.sent(&answer),
            Kind::PollRead => self.polled(&answer, false),
            Kind::PollWrite => self.polled(&answer, true),
        }
    }

    fn land(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn woken(&mut self, answer: &Answer) {
        if !answer.more {
            self.land();
            if !self.ending {
                self.watch_waker();
            }
        }
        if answer.result > 0 {
            self.waker_seen();
            self.backlog.push_back((None, Event::Woken));
        }
    }

    fn received(&mut self, answer: &Answer) {
        let Label { place, .. } = answer.label;
        let Some(slot) = self.shared.table.get_mut(place).filter(|slot| slot.knows(answer.label)) else {
            debug_assert!(false, "a receive ends once");
            return;
        };
        let (socket, closing) = (slot.socket(place), slot.closing);
        let Some(Receiving { flight, class, asked }) = slot.receiving else {
            return;
        };
        let chunk = self.take_chunk(class, answer);
        if let Some(chunk) = chunk.filter(|chunk| !closing && !chunk.is_empty()) {
            self.backlog.push_back((Some(socket), Event::Received { token: flight.token, chunk }));
        }
        if answer.more {
            return;
        }
        // The kernel ends a receive with bytes when it has no place for the completion, or by itself.
        let stays = !asked && !closing && !self.ending;
        if stays && (answer.result > 0 || (answer.failed_with(libc::ENOBUFS) && self.has_more(class))) {
            self.push_receive(place, flight.serial, class);
            return;
        }
        self.land();
        if let Some(slot) = self.shared.table.get_mut(place) {
            slot.receiving = None;
        }
        if closing {
            self.finish_closing(place);
            return;
        }
        let token = flight.token;
        let stopped = |why| Event::Stopped { token, why };
        let event = match answer.bytes() {
            Ok(0) => Event::End { token },
            Ok(_) => stopped(Stop::Asked),
            Err(_) if asked && answer.failed_with(libc::ECANCELED) => stopped(Stop::Asked),
            Err(_) if answer.failed_with(libc::ENOBUFS) => {
                stopped(if asked { Stop::Asked } else { Stop::NoBuffer })
            }
            Err(error) => stopped(Stop::Failed(error)),
        };
        self.backlog.push_back((Some(socket), event));
    }

    /// Whether the kernel got buffers that nobody holds.
    fn has_more(&mut self, class: Class) -> bool {
        let group = self.shared.groups.get_mut(usize::from(class_number(class)));
        group.is_some_and(Group::is_more_after_shortage)
    }

    /// The buffer that a completion brings, whatever it says otherwise: nobody else gives it back.
    fn take_chunk(&mut self, class: Class, answer: &Answer) -> Option<Chunk> {
        let group = self.shared.groups.get_mut(usize::from(class_number(class)))?;
        let chunk = group.take_back(answer.buffer?, answer.bytes().unwrap_or(0));
        debug_assert!(chunk.is_some(), "the kernel names buffers that it has");
        chunk
    }

    fn sent(&mut self, answer: &Answer) {
        let Label { place, .. } = answer.label;
        let Some(slot) = self.shared.table.get_mut(place).filter(|slot| slot.knows(answer.label)) else {
            debug_assert!(false, "a send ends once");
            return;
        };
        let (socket, closing) = (slot.socket(place), slot.closing);
        let Some(Sending { flight, mut parcel }) = slot.sending.take() else {
            return;
        };
        let result = match answer.bytes() {
            Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(bytes) => {
                parcel.advance(bytes);
                Ok(())
            }
            Err(_) if answer.failed_with(libc::EINTR) => Ok(()),
            Err(error) => Err(error),
        };
        // Cut short, by an error that the next attempt will name or by the largest size of one call.
        if result.is_ok() && !parcel.is_done() && !closing && !self.ending {
            slot.sending = Some(Sending { flight, parcel });
            self.push_send(place);
            return;
        }
        self.land();
        self.store_parcel(parcel);
        if closing {
            self.finish_closing(place);
        } else {
            self.backlog.push_back((Some(socket), Event::Sent { token: flight.token, result }));
        }
    }

    fn polled(&mut self, answer: &Answer, write: bool) {
        let Label { place, .. } = answer.label;
        let Some(slot) = self.shared.table.get_mut(place).filter(|slot| slot.knows(answer.label)) else {
            debug_assert!(false, "a poll ends once");
            return;
        };
        let (socket, closing) = (slot.socket(place), slot.closing);
        let Some(flight) = slot.poll_mut(write).take() else {
            return;
        };
        self.land();
        if closing {
            self.finish_closing(place);
        } else {
            self.backlog.push_back((Some(socket), Event::Ready { token: flight.token }));
        }
    }
}
