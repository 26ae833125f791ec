//! How one of two appliances stands, for metrics.

use super::names::ha as names;
use super::text;

/// What is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Every state, and whether it is in force.
    pub states: Vec<(&'static str, bool)>,
    /// How often it has changed while the daemon ran.
    pub changes: u64,
    pub serves: bool,
    /// Virtual addresses that this machine has now.
    pub addresses: usize,
}

pub(super) fn render(fact: Option<&Fact>, writer: &mut text::Writer) {
    let Some(fact) = fact else { return };
    let states = fact.states.iter().map(|(state, here)| (vec![(*state).to_owned()], u8::from(*here)));
    writer.family(names::HA_STATE, states);
    writer.single(names::HA_STATE_CHANGES, Some(fact.changes));
    writer.single(names::HA_SERVES, Some(u8::from(fact.serves)));
    writer.single(names::HA_ADDRESSES, Some(fact.addresses));
}
