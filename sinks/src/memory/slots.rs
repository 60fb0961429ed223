//! Where the rows of a table stand: pages of shared rows, and an index from key to place. A reader takes the pages as they
//! are; a writer that finds a page taken copies the page, never the rows.

use std::sync::Arc;

use hashbrown::HashTable;

use super::row::Row;

/// Rows of a page: what a writer copies at most when a reader holds the page.
pub const PAGE_ROWS: usize = 1_024;

type Page = Vec<Option<Row>>;

/// A place, with the number of times that it was given to another key. Never reused for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    place: u32,
    generation: u32,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    pages: Vec<Arc<Page>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Hash of a key and its place. The hash is kept so that growing the index touches no row.
    index: HashTable<(u32, u32)>,
}

/// Spreads a hash of 32 bits over the 64 that the index wants.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Slots {
    /// The slot whose row has this hash and satisfies `is_key`.
    pub(super) fn find(&self, hash: u32, is_key: impl Fn(&Row) -> bool) -> Option<Slot> {
        let found =
            self.index.find(spread(hash), |&(other, place)| other == hash && self.at(place).is_some_and(&is_key));
        found.map(|&(_, place)| Slot { place, generation: self.generations[place as usize] })
    }

    fn at(&self, place: u32) -> Option<&Row> {
        self.pages[place as usize / PAGE_ROWS][place as usize % PAGE_ROWS].as_ref()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Row> {
        if self.generations[slot.place as usize] == slot.generation { self.at(slot.place) } else { None }
    }

    /// Gives the row of a new key a place.
    pub(super) fn insert(&mut self, hash: u32, row: Row) -> Slot {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.generations.len() as u32;
            self.generations.push(0);
            if (place as usize).is_multiple_of(PAGE_ROWS) {
                self.pages.push(Arc::new(vec![None; PAGE_ROWS]));
            }
            place
        });
        self.index.insert_unique(spread(hash), (hash, place), |&(hash, _)| spread(hash));
        *self.entry(place) = Some(row);
        Slot { place, generation: self.generations[place as usize] }
    }

    /// Puts another row of the same key in its place and returns the old one.
    pub(super) fn replace(&mut self, slot: Slot, row: Row) -> Option<Row> {
        self.entry(slot.place).replace(row)
    }

    /// Frees the place of a key with this hash.
    pub(super) fn remove(&mut self, hash: u32, slot: Slot) -> Option<Row> {
        if let Ok(found) = self.index.find_entry(spread(hash), |&(_, place)| place == slot.place) {
            found.remove();
        }
        self.generations[slot.place as usize] += 1;
        self.free.push(slot.place);
        self.entry(slot.place).take()
    }

    fn entry(&mut self, place: u32) -> &mut Option<Row> {
        &mut Arc::make_mut(&mut self.pages[place as usize / PAGE_ROWS])[place as usize % PAGE_ROWS]
    }

    pub(super) fn pages(&self) -> Vec<Arc<Page>> {
        self.pages.clone()
    }

    /// Bytes of pages and index, without the rows.
    pub(super) fn size_bytes(&self) -> usize {
        self.pages.len() * PAGE_ROWS * size_of::<Option<Row>>()
            + self.generations.capacity() * size_of::<u32>()
            + self.index.allocation_size()
    }
}
