//! Keys that are looked at again at a tick, also when nothing comes for them.
//!
//! Invariant: a key stands at the earliest tick that it was set for since it was looked at, and maybe at later ones.

use std::collections::{BTreeMap, BTreeSet};

use operators::row::Row;
use operators::time::Tick;

/// Keys by the ticks at which they are looked at.
#[derive(Default)]
pub struct Alarms(BTreeMap<Tick, BTreeSet<Row>>);

impl Alarms {
    /// Has a key looked at by this tick. `due` is for which it is set already; who looks at it takes that away.
    pub fn set(&mut self, tick: Tick, key: &Row, due: &mut Option<Tick>) {
        if due.is_none_or(|due| tick < due) {
            *due = Some(tick);
            self.0.entry(tick).or_default().insert(key.clone());
        }
    }

    /// The next tick at which there is a key.
    pub fn next(&self) -> Option<Tick> {
        self.0.first_key_value().map(|(tick, _)| *tick)
    }

    /// Takes the keys of the next tick, if that is not after this one. Keys may be set again meanwhile: call it until there
    /// are none.
    pub fn ring(&mut self, tick: Tick) -> Option<BTreeSet<Row>> {
        self.0.first_entry().filter(|first| *first.key() <= tick).map(|first| first.remove())
    }
}
