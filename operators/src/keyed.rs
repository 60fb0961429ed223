//! Keyed state: a hash map from text keys to values whose order of iteration is that of insertion into slots, so that
//! nothing computed from it depends on hash order.

use std::ops::Range;

use arrow::array::StringViewArray;
use hashbrown::HashTable;

use crate::batch::key_hash;

/// A key together with its hash, for finding it in several tables.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    hash: u64,
    text: &'a str,
}

impl<'a> Key<'a> {
    /// The key of this text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { hash: key_hash(text.as_bytes()), text }
    }

    /// The key in `row` of a column whose hashes are known.
    #[must_use]
    pub fn at(column: &'a StringViewArray, row: usize, hash: u64) -> Self {
        Self { hash, text: column.value(row) }
    }

    /// The text of the key.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }
}

/// Longest text that an entry holds within itself, in bytes: ids of trackers and of vehicles mostly are that short.
const SHORT_BYTES_MAX: usize = 22;

/// The text of an entry: comparing a short one follows no pointer, and it takes no allocation of its own.
#[derive(Clone, Debug)]
enum Text {
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Box<str>),
}

impl Text {
    fn new(text: &str) -> Self {
        if text.len() > SHORT_BYTES_MAX {
            return Text::Long(text.into());
        }
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Text::Short(text.len() as u8, bytes)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Text::Short(length, bytes) => &bytes[..*length as usize],
            Text::Long(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Text::Short(..) => std::str::from_utf8(self.bytes()).expect("it was copied from a text"),
            Text::Long(text) => text,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry<V> {
    hash: u64,
    text: Text,
    value: V,
}

impl<V> Entry<V> {
    fn is(&self, key: &Key<'_>) -> bool {
        self.hash == key.hash && self.text.bytes() == key.text.as_bytes()
    }
}

/// Values by text key, each in a numbered slot that stays the same until the key is removed.
#[derive(Clone, Debug)]
pub struct Keyed<V> {
    table: HashTable<u32>,
    entries: Vec<Option<Entry<V>>>,
    free: Vec<u32>,
}

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self { table: HashTable::new(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<V> Keyed<V> {
    /// The slot of `key`, if it is there.
    #[must_use]
    pub fn find(&self, key: &Key<'_>) -> Option<u32> {
        self.table.find(key.hash, |&slot| self.entry(slot).is(key)).copied()
    }

    /// The slot of `key`; a new one with the value that `make` gives if the key is not there.
    pub fn slot(&mut self, key: &Key<'_>, make: impl FnOnce() -> V) -> u32 {
        let Self { table, entries, free } = self;
        let occupied = |slot: u32| entries[slot as usize].as_ref().expect("the table names occupied slots");
        if let Some(&slot) = table.find(key.hash, |&slot| occupied(slot).is(key)) {
            return slot;
        }
        let entry = Some(Entry { hash: key.hash, text: Text::new(key.text), value: make() });
        let slot = match free.pop() {
            Some(slot) => {
                entries[slot as usize] = entry;
                slot
            }
            None => {
                entries.push(entry);
                u32::try_from(entries.len() - 1).expect("fewer than 2^32 keys a worker")
            }
        };
        let hash_of = |&slot: &u32| entries[slot as usize].as_ref().expect("the table names occupied slots").hash;
        table.insert_unique(key.hash, slot, hash_of);
        slot
    }

    /// The slots of the keys in these rows of a column whose hashes are known, in the order of rows; new keys get the value
    /// that `make` gives. Finding many at once lets the machine wait for memory once, not for each.
    pub fn slots(
        &mut self,
        keys: &StringViewArray,
        hashes: &[u64],
        rows: Range<usize>,
        make: impl Fn() -> V,
    ) -> Vec<u32> {
        rows.map(|row| self.slot(&Key::at(keys, row, hashes[row]), &make)).collect()
    }

    /// The value in an occupied slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> &V {
        &self.entry(slot).value
    }

    /// The value in an occupied slot, to change.
    pub fn get_mut(&mut self, slot: u32) -> &mut V {
        &mut self.entries[slot as usize].as_mut().expect("slot is occupied").value
    }

    /// The key of an occupied slot.
    #[must_use]
    pub fn text(&self, slot: u32) -> &str {
        self.entry(slot).text.as_str()
    }

    /// Frees a slot and gives its value.
    pub fn remove(&mut self, slot: u32) -> V {
        let entry = self.entries[slot as usize].take().expect("slot is occupied");
        if let Ok(found) = self.table.find_entry(entry.hash, |&other| other == slot) {
            found.remove();
        }
        self.free.push(slot);
        entry.value
    }

    /// Removes every entry, and keeps the space.
    pub fn clear(&mut self) {
        self.table.clear();
        self.entries.clear();
        self.free.clear();
    }

    /// The occupied slots and their values, by ascending slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| Some((slot as u32, &entry.as_ref()?.value)))
    }

    /// The hash of an occupied slot's key.
    #[must_use]
    pub fn hash(&self, slot: u32) -> u64 {
        self.entry(slot).hash
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn entry(&self, slot: u32) -> &Entry<V> {
        self.entries[slot as usize].as_ref().expect("slot is occupied")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Catches a wrong free list, a stale table entry, short and long keys taken for one another.
        #[test]
        fn behaves_as_a_map(ops in proptest::collection::vec((0u8..40, any::<bool>(), any::<u32>()), 1..400)) {
            let mut keyed = Keyed::default();
            let mut model = BTreeMap::new();
            for (number, insert, value) in ops {
                let text = format!("k{}{number}", "x".repeat(number as usize % 30));
                let key = Key::new(&text);
                if insert {
                    let slot = keyed.slot(&key, || value);
                    *keyed.get_mut(slot) = value;
                    model.insert(text, value);
                } else if let Some(slot) = keyed.find(&key) {
                    prop_assert_eq!(Some(keyed.remove(slot)), model.remove(&text));
                } else {
                    prop_assert!(!model.contains_key(&text));
                }
                prop_assert_eq!(keyed.len(), model.len());
            }
            for (text, value) in model {
                let slot = keyed.find(&Key::new(&text)).expect("the model has it");
                prop_assert_eq!((keyed.text(slot), *keyed.get(slot)), (text.as_str(), value));
            }
        }
    }
}
