//! Who has misbehaved so often that it is banned: counts offences by source, and says when it is enough.
//!
//! Values and the time come in, a [`Sentence`] comes out. Offences of one kind are counted from the first one on, and
//! forgotten together `within` later. So whoever is banned had `count` of them within that time, and whoever had twice
//! as many is banned for sure, wherever the first one falls. The table is bounded, and when it is full the source with the
//! fewest offences is forgotten: a full table may let somebody off, it never bans anybody. What is banned is kept in
//! [`list`], who never is in [`exempt`].

pub mod exempt;
pub mod list;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::deny::Deny;
use exempt::Exempt;

/// Doublings of the ban's time that are counted; [`Rules::ban_time_most`] bounds it long before.
const REPEATS_MAX: u32 = 30;

/// What a source can be banned for.
///
/// No offences are: an authority, a name or a server that does not answer, a limit that is met, a request that policy
/// forbids or that has no ticket (a client that is set up wrongly repeats these all day), a client that goes away, that
/// does not trust our certificate, or that speaks only versions of TLS which we do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offence {
    /// A ticket that is malformed or that its authority does not know (any more).
    BadTicket,
    /// A wrong name or password.
    FailedLogin,
    /// A TLS handshake that is none, or breaks the rules of TLS.
    BrokenHandshake,
    /// A request that breaks its protocol.
    Violation,
}

impl Offence {
    pub const ALL: [Self; 4] = [Self::BadTicket, Self::FailedLogin, Self::BrokenHandshake, Self::Violation];

    /// The kind in metrics, records and the list of bans.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::BadTicket => "bad_ticket",
            Self::FailedLogin => "failed_login",
            Self::BrokenHandshake => "broken_handshake",
            Self::Violation => "violation",
        }
    }

    /// The kind of that label.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|offence| offence.label() == label)
    }

    /// What a refusal says of the client, if anything.
    #[must_use]
    pub fn of_refusal(reason: Deny) -> Option<Self> {
        match reason {
            Deny::TicketMalformed | Deny::TicketRefused => Some(Self::BadTicket),
            Deny::CredentialsWrong => Some(Self::FailedLogin),
            Deny::UnknownProtocol | Deny::Malformed | Deny::RequestTooLong => Some(Self::Violation),
            Deny::SlowRequest
            | Deny::UnsupportedCommand
            | Deny::UnsupportedVersion
            | Deny::TicketRequired
            | Deny::AuthorityUnknown
            | Deny::AuthorityDown
            | Deny::TicketWithoutServer
            | Deny::CredentialsRequired
            | Deny::Forbidden
            | Deny::NameUnknown
            | Deny::ServerRefused
            | Deny::ServerUnreachable
            | Deny::ServerTimeout
            | Deny::ServerUntrusted
            | Deny::ServerTls
            | Deny::SourceForbidden
            | Deny::Banned
            | Deny::TooManyConnections
            | Deny::TooManyConnectionsFromSource
            | Deny::TooManyHandshakes
            | Deny::TooManyHandshakesFromSource
            | Deny::TooManySessions
            | Deny::TooManySessionsFromSource
            | Deny::TooManySessionsOfUser
            | Deny::Overloaded
            | Deny::Draining => None,
        }
    }

    /// Whether a session that was opened by a good ticket or login makes up for it. Somebody with one good account
    /// must not be able to guess at others without end.
    fn can_be_forgiven(self) -> bool {
        match self {
            Self::BadTicket | Self::BrokenHandshake | Self::Violation => true,
            Self::FailedLogin => false,
        }
    }
}

/// So many offences within that time are enough; a count of 0 means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    pub count: u32,
    pub within: Duration,
}

/// What an operator may set. `Default` is for a site with some thousand people behind one address, who mistype
/// their passwords and click on old ICA files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub bad_tickets: Threshold,
    pub failed_logins: Threshold,
    pub broken_handshakes: Threshold,
    pub violations: Threshold,
    /// Of the first ban; each further one is twice as long.
    pub ban_time: Duration,
    pub ban_time_most: Duration,
    /// What one source is: the length of its prefix.
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
}

impl Default for Rules {
    fn default() -> Self {
        let threshold = |count, minutes| Threshold { count, within: Duration::from_mins(minutes) };
        Self {
            bad_tickets: threshold(50, 5),
            failed_logins: threshold(20, 10),
            broken_handshakes: threshold(100, 5),
            violations: threshold(100, 5),
            ban_time: Duration::from_mins(10),
            ban_time_most: Duration::from_hours(24),
            ipv4_prefix: 32,
            // One subscriber (RFC 6177).
            ipv6_prefix: 64,
        }
    }
}

impl Rules {
    #[must_use]
    pub fn threshold(&self, offence: Offence) -> Threshold {
        match offence {
            Offence::BadTicket => self.bad_tickets,
            Offence::FailedLogin => self.failed_logins,
            Offence::BrokenHandshake => self.broken_handshakes,
            Offence::Violation => self.violations,
        }
    }

    /// What is counted and banned for a source. Where its prefix has members that are never banned it is the address
    /// alone: the kernel side knows no exceptions within a prefix.
    fn subject(&self, source: IpAddr, exempt: &Exempt) -> IpNet {
        let source = source.to_canonical();
        let length = if source.is_ipv4() { self.ipv4_prefix } else { self.ipv6_prefix };
        let prefix = IpNet::new(source, length).unwrap_or_else(|_| source.into()).trunc();
        if exempt.overlaps(prefix) { source.into() } else { prefix }
    }

    /// The time of a ban, the `repeats`-th after the first.
    fn time(&self, repeats: u32) -> Duration {
        let factor = 1_u32.checked_shl(repeats.min(REPEATS_MAX)).unwrap_or(u32::MAX);
        self.ban_time.saturating_mul(factor).min(self.ban_time_most)
    }
}

/// A source is to be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub prefix: IpNet,
    pub time: Duration,
    pub offence: Offence,
    /// Of that kind since it last had none to its account.
    pub offences: u32,
    /// How often it was banned lately before this.
    pub repeats: u32,
}

/// Offences of one kind, counted from the first for as long as the threshold says.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// When they will be forgotten.
    end: Option<Instant>,
    offences: u32,
}

impl Tally {
    /// Counts one more; whether it is enough.
    fn add(&mut self, threshold: Threshold, now: Instant) -> bool {
        if self.end.is_none_or(|end| end <= now) {
            *self = Self { end: Some(later(now, threshold.within)), offences: 0 };
        }
        self.offences = self.offences.saturating_add(1);
        self.offences >= threshold.count
    }
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// By [`Offence::ALL`].
    tallies: [Tally; 4],
    /// Bans that are remembered, and until when.
    bans: u32,
    remembered: Option<Instant>,
    /// The end of its ban: what it does while it is banned is connections that were open before.
    banned: Option<Instant>,
    /// Its keys in the two orders.
    forgotten: Instant,
    guilt: u32,
}

impl Suspect {
    fn new(now: Instant) -> Self {
        Self {
            tallies: [Tally::default(); 4],
            bans: 0,
            remembered: None,
            banned: None,
            forgotten: now,
            guilt: 0,
        }
    }

    fn tally(&mut self, offence: Offence) -> Option<&mut Tally> {
        let index = Offence::ALL.iter().position(|known| *known == offence)?;
        self.tallies.get_mut(index)
    }

    /// Who was banned is guiltier than whoever was not.
    fn guilt(&self) -> u32 {
        const BANNED: u32 = u32::MAX / 2;
        let offences = self.tallies.iter().fold(0, |sum: u32, tally| sum.saturating_add(tally.offences));
        let before = if self.bans > 0 { BANNED.saturating_add(self.bans) } else { 0 };
        before.saturating_add(offences)
    }

    /// When nothing of it is left.
    fn last(&self, now: Instant) -> Instant {
        let tallies = self.tallies.iter().filter_map(|tally| tally.end);
        tallies.chain(self.remembered).chain(self.banned).fold(now, Instant::max)
    }
}

/// Sources with offences, at most `most` of them.
#[derive(Debug)]
pub struct Penalties {
    rules: Rules,
    most: usize,
    suspects: HashMap<IpNet, Suspect>,
    /// In the order in which they will be forgotten.
    by_time: BTreeSet<(Instant, IpNet)>,
    /// In the order in which they make room; of equals the oldest first.
    by_guilt: BTreeSet<(u32, Instant, IpNet)>,
}

impl Penalties {
    #[must_use]
    pub fn new(rules: Rules, most: usize) -> Self {
        Self {
            rules,
            most: most.max(1),
            suspects: HashMap::new(),
            by_time: BTreeSet::new(),
            by_guilt: BTreeSet::new(),
        }
    }

    /// Judges by other rules from now on; what was counted stays.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.suspects.len()
    }

    /// Counts an offence; a sentence when it is one too many.
    pub fn offend(
        &mut self,
        source: IpAddr,
        offence: Offence,
        exempt: &Exempt,
        now: Instant,
    ) -> Option<Sentence> {
        let threshold = self.rules.threshold(offence);
        if threshold.count == 0 || exempt.covers(source).is_some() {
            return None;
        }
        let prefix = self.rules.subject(source, exempt);
        self.forget_old(now);
        let mut suspect = self.take(prefix).unwrap_or_else(|| Suspect::new(now));
        let sentence = if suspect.banned.is_some_and(|end| end > now) {
            None
        } else {
            if suspect.remembered.is_none_or(|until| until <= now) {
                suspect.bans = 0;
            }
            let tally = suspect.tally(offence)?;
            let enough = tally.add(threshold, now);
            let offences = tally.offences;
            enough.then(|| {
                let repeats = suspect.bans;
                let time = self.rules.time(repeats);
                self.convict(&mut suspect, repeats.saturating_add(1), later(now, time));
                Sentence { prefix, time, offence, offences, repeats }
            })
        };
        self.keep(prefix, suspect, now);
        sentence
    }

    /// A good ticket or login came from there: it makes up for what people behind one address do by mistake.
    pub fn forgive(&mut self, source: IpAddr, exempt: &Exempt, now: Instant) {
        let prefix = self.rules.subject(source, exempt);
        let Some(mut suspect) = self.take(prefix) else { return };
        for offence in Offence::ALL.into_iter().filter(|offence| offence.can_be_forgiven()) {
            if let Some(tally) = suspect.tally(offence) {
                *tally = Tally::default();
            }
        }
        if suspect.last(now) > now {
            self.keep(prefix, suspect, now);
        }
    }

    /// Forgets everything about the prefixes that `wanted` picks: an operator has lifted their bans.
    pub fn pardon(&mut self, wanted: impl Fn(IpNet) -> bool) {
        let pardoned: Vec<IpNet> = self.suspects.keys().copied().filter(|prefix| wanted(*prefix)).collect();
        for prefix in pardoned {
            self.take(prefix);
        }
    }

    /// Remembers a ban that an earlier run of the daemon gave.
    pub fn recall(&mut self, prefix: IpNet, repeats: u32, end: Instant, now: Instant) {
        let mut suspect = self.take(prefix).unwrap_or_else(|| Suspect::new(now));
        self.convict(&mut suspect, repeats.saturating_add(1), end);
        self.keep(prefix, suspect, now);
    }

    /// A source is a repeat offender for as long after its ban as the longest ban takes.
    fn convict(&self, suspect: &mut Suspect, bans: u32, end: Instant) {
        suspect.tallies = [Tally::default(); 4];
        suspect.bans = bans;
        suspect.banned = Some(end);
        suspect.remembered = Some(later(end, self.rules.ban_time_most));
    }

    fn take(&mut self, prefix: IpNet) -> Option<Suspect> {
        let suspect = self.suspects.remove(&prefix)?;
        self.by_time.remove(&(suspect.forgotten, prefix));
        self.by_guilt.remove(&(suspect.guilt, suspect.forgotten, prefix));
        Some(suspect)
    }

    fn keep(&mut self, prefix: IpNet, mut suspect: Suspect, now: Instant) {
        while self.suspects.len() >= self.most {
            let Some((_, _, least)) = self.by_guilt.first().copied() else { break };
            self.take(least);
        }
        (suspect.forgotten, suspect.guilt) = (suspect.last(now), suspect.guilt());
        self.by_time.insert((suspect.forgotten, prefix));
        self.by_guilt.insert((suspect.guilt, suspect.forgotten, prefix));
        self.suspects.insert(prefix, suspect);
    }

    /// A few at a time: more than one for each that comes is enough to forget all of them.
    fn forget_old(&mut self, now: Instant) {
        const AT_ONCE: usize = 4;
        for _ in 0..AT_ONCE {
            match self.by_time.first() {
                Some((forgotten, prefix)) if *forgotten <= now => {
                    let prefix = *prefix;
                    self.take(prefix);
                }
                _ => return,
            }
        }
    }
}

/// An instant that the clock cannot express is one that nobody lives to see.
fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now)
}

#[cfg(test)]
mod tests;
