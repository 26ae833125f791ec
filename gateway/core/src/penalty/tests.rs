use std::collections::HashMap;

use proptest::prelude::*;

use super::exempt::Reason;
use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three of each kind within 30 seconds; a minute, doubled up to five.
fn rules() -> Rules {
    let three = Threshold { count: 3, within: seconds(30) };
    Rules {
        bad_tickets: three,
        failed_logins: three,
        broken_handshakes: three,
        violations: three,
        ban_time: seconds(60),
        ban_time_most: seconds(300),
        ..Rules::default()
    }
}

struct World {
    penalties: Penalties,
    exempt: Exempt,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(rules(), 100)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    fn with(rules: Rules, most: usize) -> Self {
        Self { penalties: Penalties::new(rules, most), exempt: Exempt::new([]), now: Instant::now() }
    }

    fn pass(&mut self, time: u64) {
        self.now += seconds(time);
    }

    fn offend(&mut self, source: &str, offence: Offence) -> Option<Sentence> {
        self.penalties.offend(address(source), offence, &self.exempt, self.now)
    }

    /// Offends until there is a sentence.
    fn sentence(&mut self, source: &str, offence: Offence) -> Sentence {
        (0..100).find_map(|_| self.offend(source, offence)).unwrap()
    }
}

#[test]
fn the_count_is_reached_and_one_before_it_is_not_enough() {
    let mut world = World::new();
    for offence in Offence::ALL {
        let source = format!("192.0.2.{}", offence.label().len());
        assert_eq!(world.offend(&source, offence), None);
        assert_eq!(world.offend(&source, offence), None);
        let sentence = world.offend(&source, offence).unwrap();
        let prefix = IpNet::from(address(&source));
        assert_eq!(sentence, Sentence { prefix, time: seconds(60), offence, offences: 3, repeats: 0 });
    }
}

#[test]
fn offences_need_not_come_at_once() {
    let mut world = World::new();
    assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
    world.pass(15);
    assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
    world.pass(14);
    assert!(world.offend("192.0.2.1", Offence::BadTicket).is_some());
}

#[test]
fn kinds_and_sources_are_counted_apart() {
    let mut world = World::new();
    for _ in 0..2 {
        for offence in Offence::ALL {
            for source in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
                assert_eq!(world.offend(source, offence), None);
            }
        }
    }
}

#[test]
fn offences_that_come_slowly_are_forgotten() {
    let mut world = World::new();
    for _ in 0..100 {
        assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
        world.pass(15);
    }
}

#[test]
fn addresses_of_one_ipv6_prefix_are_one_source_and_a_mapped_one_is_ipv4() {
    let mut world = World::new();
    world.offend("2001:db8::1", Offence::BadTicket);
    world.offend("2001:db8::2", Offence::BadTicket);
    assert_eq!(world.offend("2001:db8::3", Offence::BadTicket).unwrap().prefix, net("2001:db8::/64"));
    world.offend("192.0.2.1", Offence::BadTicket);
    world.offend("::ffff:192.0.2.1", Offence::BadTicket);
    let sentence = world.offend("::ffff:192.0.2.1", Offence::BadTicket).unwrap();
    assert_eq!(sentence.prefix, net("192.0.2.1/32"));
}

#[test]
fn prefixes_are_as_long_as_configured() {
    let mut world = World::with(Rules { ipv4_prefix: 24, ipv6_prefix: 48, ..rules() }, 100);
    assert_eq!(world.sentence("192.0.2.1", Offence::Violation).prefix, net("192.0.2.0/24"));
    assert_eq!(world.sentence("2001:db8:7:8::1", Offence::Violation).prefix, net("2001:db8:7::/48"));
}

#[test]
fn who_is_exempt_is_never_banned_and_its_neighbours_alone_are() {
    let mut world = World::with(Rules { ipv4_prefix: 24, ..rules() }, 100);
    world.exempt = Exempt::new([
        (net("192.0.2.10/32"), Reason::Allowed),
        (net("2001:db8::/64"), Reason::Management),
        (net("198.51.100.1/32"), Reason::Own),
    ]);
    for source in ["192.0.2.10", "2001:db8::77", "198.51.100.1", "127.0.0.1", "::1", "fe80::1"] {
        for _ in 0..100 {
            assert_eq!(world.offend(source, Offence::FailedLogin), None, "{source}");
        }
    }
    assert!(world.penalties.is_empty());
    // A ban of the whole prefix would take the exempt address along.
    assert_eq!(world.sentence("192.0.2.11", Offence::FailedLogin).prefix, net("192.0.2.11/32"));
}

#[test]
fn each_further_ban_is_twice_as_long_up_to_the_longest_until_it_is_forgotten() {
    let mut world = World::new();
    for (repeats, time) in [(0, 60), (1, 120), (2, 240), (3, 300), (4, 300)] {
        let sentence = world.sentence("192.0.2.1", Offence::FailedLogin);
        assert_eq!((sentence.repeats, sentence.time), (repeats, seconds(time)));
        world.pass(time);
    }
    world.pass(300);
    assert_eq!(world.sentence("192.0.2.1", Offence::FailedLogin).repeats, 0);
}

#[test]
fn the_longest_ban_is_reached_by_any_number_of_repeats_without_overflow() {
    let mut world = World::with(Rules { ban_time_most: Duration::from_hours(24 * 365), ..rules() }, 100);
    for repeats in [29, 30, 31, 32, u32::MAX - 1] {
        let now = world.now;
        world.penalties.recall(net("192.0.2.1/32"), repeats, now, now);
        world.pass(1);
        assert_eq!(world.sentence("192.0.2.1", Offence::BadTicket).time, Duration::from_hours(24 * 365));
    }
}

#[test]
fn what_a_banned_source_does_yet_is_not_counted() {
    let mut world = World::new();
    world.sentence("192.0.2.1", Offence::BadTicket);
    for _ in 0..100 {
        assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
    }
    world.pass(60);
    assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
}

#[test]
fn a_good_session_makes_up_for_everything_but_failed_logins() {
    let mut world = World::new();
    for _ in 0..100 {
        for offence in [Offence::BadTicket, Offence::BrokenHandshake, Offence::Violation] {
            assert_eq!(world.offend("192.0.2.1", offence), None);
            assert_eq!(world.offend("192.0.2.1", offence), None);
        }
        world.penalties.forgive(address("192.0.2.1"), &world.exempt, world.now);
    }
    assert!(world.penalties.is_empty());
    assert_eq!(world.offend("192.0.2.1", Offence::FailedLogin), None);
    assert_eq!(world.offend("192.0.2.1", Offence::FailedLogin), None);
    world.penalties.forgive(address("192.0.2.1"), &world.exempt, world.now);
    assert!(world.offend("192.0.2.1", Offence::FailedLogin).is_some());
}

#[test]
fn whose_ban_an_operator_lifts_begins_anew() {
    let mut world = World::new();
    world.sentence("192.0.2.1", Offence::BadTicket);
    world.sentence("198.51.100.1", Offence::BadTicket);
    world.penalties.pardon(|prefix| net("192.0.2.0/24").contains(&prefix));
    assert_eq!(world.sentence("192.0.2.1", Offence::BadTicket).repeats, 0);
    world.pass(60);
    assert_eq!(world.sentence("198.51.100.1", Offence::BadTicket).repeats, 1);
}

#[test]
fn a_count_of_zero_never_bans_and_one_bans_at_once() {
    let threshold = |count| Threshold { count, within: seconds(30) };
    let mut world =
        World::with(Rules { bad_tickets: threshold(0), violations: threshold(1), ..rules() }, 100);
    for _ in 0..1000 {
        assert_eq!(world.offend("192.0.2.1", Offence::BadTicket), None);
    }
    assert!(world.penalties.is_empty());
    assert!(world.offend("192.0.2.1", Offence::Violation).is_some());
}

#[test]
fn a_full_table_forgets_the_least_guilty_and_bans_nobody_for_it() {
    let mut world = World::with(rules(), 10);
    // Two offences, near a ban, among many sources with one.
    world.offend("192.0.2.1", Offence::BadTicket);
    world.offend("192.0.2.1", Offence::BadTicket);
    for number in 0..200 {
        assert_eq!(world.offend(&format!("198.51.100.{number}"), Offence::BadTicket), None);
        assert!(world.penalties.len() <= 10);
    }
    assert!(world.offend("192.0.2.1", Offence::BadTicket).is_some());
    // Nor does whoever was banned make room for those who were not.
    for number in 0..200 {
        world.offend(&format!("198.51.100.{number}"), Offence::BadTicket);
    }
    world.pass(60);
    assert_eq!(world.sentence("192.0.2.1", Offence::BadTicket).repeats, 1);
    // A source that was forgotten begins anew.
    assert_eq!(world.offend("198.51.100.0", Offence::BadTicket), None);
    assert_eq!(world.offend("198.51.100.0", Offence::BadTicket), None);
    assert!(world.offend("198.51.100.0", Offence::BadTicket).is_some());
}

#[test]
fn what_is_over_leaves_the_table() {
    let mut world = World::new();
    for number in 0..50 {
        world.offend(&format!("198.51.100.{number}"), Offence::BadTicket);
    }
    world.pass(31);
    for _ in 0..20 {
        world.offend("192.0.2.1", Offence::Violation);
        world.pass(31);
    }
    assert_eq!(world.penalties.len(), 1);
    assert_eq!((world.penalties.by_time.len(), world.penalties.by_guilt.len()), (1, 1));
}

#[test]
fn refusals_that_are_not_the_clients_fault_are_no_offence() {
    let offences: Vec<Deny> =
        Deny::ALL.into_iter().filter(|deny| Offence::of_refusal(*deny).is_some()).collect();
    let expected = [
        Deny::UnknownProtocol,
        Deny::Malformed,
        Deny::RequestTooLong,
        Deny::TicketMalformed,
        Deny::TicketRefused,
        Deny::CredentialsWrong,
    ];
    assert_eq!(offences, expected);
}

#[test]
fn labels_lead_back_to_their_offence() {
    for offence in Offence::ALL {
        assert_eq!(Offence::from_label(offence.label()), Some(offence));
    }
    assert_eq!(Offence::from_label("hand"), None);
}

/// What happened, and how many milliseconds after the last.
fn story() -> impl Strategy<Value = Vec<(u64, u8)>> {
    proptest::collection::vec((0_u64..4_000, 0_u8..4), 1..400)
}

proptest! {
    /// Beside a naive window that keeps every time: nobody is banned for fewer than `count` within `within`, and
    /// who has twice as many since its last ban is banned.
    #[test]
    fn a_tally_bans_after_the_count_and_before_its_double(
        story in story(),
        count in 1_u32..12,
        within in 1_u64..30,
    ) {
        let threshold = Threshold { count, within: seconds(within) };
        let short = Duration::from_nanos(1);
        let rules = Rules { bad_tickets: threshold, ban_time: short, ban_time_most: short, ..rules() };
        let mut world = World::with(rules, 100);
        let mut seen: HashMap<u8, Vec<Instant>> = HashMap::new();
        for (wait, host) in story {
            world.now += Duration::from_millis(wait);
            let source = format!("192.0.2.{host}");
            let times = seen.entry(host).or_default();
            times.push(world.now);
            times.retain(|time| world.now.duration_since(*time) < threshold.within);
            let banned = world.offend(&source, Offence::BadTicket).is_some();
            let count = usize::try_from(count).unwrap();
            prop_assert!(!banned || times.len() >= count);
            prop_assert!(banned || times.len() < count * 2);
            if banned {
                times.clear();
                // The ban itself is over before the next offence.
                world.now += Duration::from_millis(1);
            }
        }
    }

    /// However small the table, and whatever is forgotten: what is kept is bounded, and both views of it agree.
    #[test]
    fn the_table_is_bounded_and_consistent(story in story(), most in 1_usize..6) {
        let mut world = World::with(rules(), most);
        for (step, (wait, host)) in story.into_iter().enumerate() {
            world.now += Duration::from_millis(wait);
            let source = format!("192.0.2.{host}");
            match step % 7 {
                5 => world.penalties.forgive(address(&source), &world.exempt, world.now),
                6 if wait % 5 == 0 => world.penalties.pardon(|prefix| prefix.contains(&address(&source))),
                _ => drop(world.offend(&source, Offence::ALL[step % 4])),
            }
            let penalties = &world.penalties;
            prop_assert!(penalties.len() <= most);
            prop_assert_eq!(penalties.len(), penalties.by_time.len());
            prop_assert_eq!(penalties.len(), penalties.by_guilt.len());
            for (guilt, forgotten, prefix) in &penalties.by_guilt {
                let suspect = &penalties.suspects[prefix];
                prop_assert_eq!((suspect.guilt, suspect.forgotten), (*guilt, *forgotten));
                prop_assert!(penalties.by_time.contains(&(*forgotten, *prefix)));
            }
        }
    }
}
