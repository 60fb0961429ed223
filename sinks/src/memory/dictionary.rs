//! Texts that many rows share, each kept once and named by a number. A dictionary only grows, up to fixed limits, so that a
//! number means the same text for ever and readers need no lock.

use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use operators::batch::key_hash;

/// Texts that a dictionary takes; later ones stand in their rows.
pub const ENTRIES_MAX: usize = PAGES * PAGE_ENTRIES;
/// Longest text that a dictionary takes, in bytes.
pub const ENTRY_BYTES_MAX: usize = 256;

const PAGES: usize = 256;
const PAGE_ENTRIES: usize = 256;

type Page = Box<[OnceLock<Box<str>>]>;

/// The readers' side: number to text.
#[derive(Clone, Debug)]
pub struct Dictionary {
    pages: Arc<[OnceLock<Page>]>,
}

impl Dictionary {
    /// The text of a number that [`DictionaryWriter::intern`] gave.
    ///
    /// # Panics
    /// For any other number.
    #[must_use]
    pub fn text(&self, id: u32) -> &str {
        let (page, entry) = (id as usize / PAGE_ENTRIES, id as usize % PAGE_ENTRIES);
        self.pages[page].get().and_then(|page| page[entry].get()).expect("a row names only texts that were interned")
    }
}

/// The single writer's side: text to number.
#[derive(Debug)]
pub struct DictionaryWriter {
    dictionary: Dictionary,
    index: HashTable<u32>,
}

impl DictionaryWriter {
    /// A dictionary without texts.
    #[must_use]
    pub fn new() -> Self {
        let pages = (0..PAGES).map(|_| OnceLock::new()).collect();
        Self { dictionary: Dictionary { pages }, index: HashTable::new() }
    }

    /// A handle for readers.
    #[must_use]
    pub fn reader(&self) -> Dictionary {
        self.dictionary.clone()
    }

    /// The number of a text that is there already.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u32> {
        let dictionary = &self.dictionary;
        self.index.find(key_hash(text.as_bytes()), |&id| dictionary.text(id) == text).copied()
    }

    /// The number of `text`, which is added if there is room; `None` where the row has to keep it itself.
    pub fn intern(&mut self, text: &str) -> Option<u32> {
        if let Some(id) = self.find(text) {
            return Some(id);
        }
        if self.index.len() >= ENTRIES_MAX || text.len() > ENTRY_BYTES_MAX {
            return None;
        }
        let id = self.index.len() as u32;
        let (page, entry) = (id as usize / PAGE_ENTRIES, id as usize % PAGE_ENTRIES);
        let page = self.dictionary.pages[page].get_or_init(|| (0..PAGE_ENTRIES).map(|_| OnceLock::new()).collect());
        page[entry].set(text.into()).expect("ids are given once");
        let dictionary = &self.dictionary;
        self.index.insert_unique(key_hash(text.as_bytes()), id, |&id| key_hash(dictionary.text(id).as_bytes()));
        Some(id)
    }
}

impl Default for DictionaryWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_until_the_dictionary_is_full() {
        let mut writer = DictionaryWriter::new();
        let reader = writer.reader();
        for round in 0..2 {
            for n in 0..ENTRIES_MAX as u32 {
                assert_eq!(writer.intern(&format!("text {n}")), Some(n), "round {round}");
            }
        }
        assert_eq!(reader.text(777), "text 777");
        assert_eq!(writer.intern("one more"), None);
        assert_eq!(writer.intern("text 1"), Some(1));
    }

    #[test]
    fn long_texts_stay_in_their_rows() {
        let mut writer = DictionaryWriter::new();
        assert_eq!(writer.intern(&"x".repeat(ENTRY_BYTES_MAX + 1)), None);
        assert_eq!(writer.intern(&"x".repeat(ENTRY_BYTES_MAX)), Some(0));
    }
}
