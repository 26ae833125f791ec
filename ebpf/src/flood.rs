//! Budgets for what strangers may begin: SYNs of one source, SYNs of all together, echoes of ICMP.
//!
//! Budgets of all together are per processor, so that processors do not wait for each other; user space divides them.
//! Two processors that take from the bucket of one source at the same time may both take the same token: the budget
//! is a bound against floods and no account.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use portcullis_ebpf_common::tables::{
    Cookies, LISTENER_SYNS, LISTENERS_MAX, ListenerKey, SYN_SOURCES_MAX, Setting, SourceKey,
};
use portcullis_ebpf_common::{Cause, Packet, Rate, SynAck};

use crate::context::now;
use crate::maps::setting;

/// By [`SourceKey::place`]. No hash table: a flood from everywhere would do nothing but replace its entries.
#[map]
static SYN_SOURCES: Array<u64> = Array::with_max_entries(SYN_SOURCES_MAX, 0);
#[map]
static LISTENERS: Array<u64> = Array::with_max_entries(LISTENERS_MAX, 0);
/// By [`SYNS`] and [`ECHOES`].
#[map]
static BUDGETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

const SYNS: u32 = 0;
const ECHOES: u32 = 1;

/// What becomes of a SYN for an open port. The budget of its source holds with cookies as well: it bounds what an
/// attacker who forges one victim's address makes us send there.
#[inline(never)]
pub(crate) fn opens(packet: &Packet, forwarded: bool) -> Cause {
    let now = now();
    if !source_may(packet, now) {
        return Cause::SynSource;
    }
    // The server behind a forwarded port would not know a cookie of this machine.
    let cookies = if forwarded { Cookies::Off } else { Cookies::from_word(setting(Setting::Cookies)) };
    if !matches!(cookies, Cookies::Always) && may(SYNS, setting(Setting::SynTotal), now) {
        return Cause::RuleAccepts;
    }
    match cookies {
        Cookies::Off => Cause::SynTotal,
        _ if !SynAck::answers(packet) => Cause::SynTotal,
        _ if listener_gets(packet, now) => Cause::RuleAccepts,
        _ => Cause::CookieSent,
    }
}

#[inline(always)]
pub(crate) fn echo() -> Cause {
    if may(ECHOES, setting(Setting::Icmp), now()) { Cause::Icmp } else { Cause::IcmpRate }
}

#[inline(always)]
fn may(budget: u32, per_second: u64, now: u64) -> bool {
    if per_second == 0 {
        return true;
    }
    let Some(bucket) = BUDGETS.get_ptr_mut(budget) else { return true };
    // SAFETY: the map gave the address of an aligned u64, which is this processor's own.
    let taken = Rate::per_second(per_second as u32).take(unsafe { *bucket }, now);
    let Some(next) = taken else { return false };
    // SAFETY: as above.
    unsafe { *bucket = next };
    true
}

#[inline(always)]
fn source_may(packet: &Packet, now: u64) -> bool {
    let per_second = setting(Setting::SynSource);
    if per_second == 0 {
        return true;
    }
    let place = SourceKey::of(&packet.addresses).place(setting(Setting::Seed));
    let Some(bucket) = SYN_SOURCES.get_ptr_mut(place) else { return true };
    take_from(bucket, Rate::per_second(per_second as u32), now)
}

/// Under pressure some SYNs reach every listener all the same: the kernel takes a connection that a cookie opens only
/// where it has lately sent a cookie itself.
#[inline(always)]
fn listener_gets(packet: &Packet, now: u64) -> bool {
    let Some(bucket) = LISTENERS.get_ptr_mut(ListenerKey::of(packet).place()) else { return true };
    take_from(bucket, Rate::per_second(LISTENER_SYNS), now)
}

#[inline(always)]
fn take_from(bucket: *mut u64, rate: Rate, now: u64) -> bool {
    // SAFETY: the map gave the address of an aligned word that stays allocated as long as the program runs.
    let taken = rate.take(unsafe { bucket.read_volatile() }, now);
    let Some(next) = taken else { return false };
    // SAFETY: as above; whichever processor writes last is near enough.
    unsafe { bucket.write_volatile(next) };
    true
}
