//! The relations as a question finds them: by name, and by the number that Postgres' catalogue knows them by.
//!
//! Invariant: a relation keeps its number as long as its name; so what a client learnt in one question holds in the next.

use std::collections::BTreeMap;

use datafusion::common::TableReference;
use xxhash_rust::xxh3::xxh3_64;

use super::{Name, PUBLIC, Relation, SYSTEM};

/// The one catalogue, which Postgres calls a database.
pub const CATALOG: &str = "haulstream";
/// Numbers below are Postgres' own.
const FIRST_NUMBER: u64 = 16_384;

/// All relations.
pub struct Directory {
    relations: BTreeMap<Name, Relation>,
    numbers: BTreeMap<i32, Name>,
}

impl Directory {
    /// Of this list.
    pub fn new(list: Vec<Relation>) -> Directory {
        let relations: BTreeMap<Name, Relation> =
            list.into_iter().map(|relation| (relation.name.clone(), relation)).collect();
        let mut numbers = BTreeMap::new();
        for name in relations.keys() {
            let mut number = number(&format!("{}.{}", name.namespace, name.name));
            while numbers.contains_key(&number) {
                number = if number == i32::MAX { FIRST_NUMBER as i32 } else { number + 1 };
            }
            numbers.insert(number, name.clone());
        }
        Directory { relations, numbers }
    }

    /// All of them, by name.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }

    /// All of them with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (i32, &Relation)> {
        self.numbers.iter().map(|(number, name)| (*number, &self.relations[name]))
    }

    /// The relation of this name.
    pub fn get(&self, name: &Name) -> Option<&Relation> {
        self.relations.get(name)
    }

    /// The relation that is meant; a name alone is looked for among views and tables first, then in the process' own.
    pub fn find(&self, reference: &TableReference) -> Option<&Relation> {
        if reference.catalog().is_some_and(|catalog| catalog != CATALOG) {
            return None;
        }
        let namespaces = reference.schema().map_or(vec![PUBLIC, SYSTEM], |namespace| vec![namespace]);
        namespaces.into_iter().find_map(|namespace| self.relations.get(&Name::new(namespace, reference.table())))
    }

    /// The number of the relation with this name, quoted and qualified as SQL writes it.
    pub fn number_of(&self, written: &str) -> Option<i32> {
        let relation = self.find(&TableReference::parse_str(written))?;
        self.numbers.iter().find(|(_, name)| **name == relation.name).map(|(number, _)| *number)
    }

    /// The name of the relation with this number, as SQL writes it.
    pub fn name_of(&self, number: i32) -> Option<String> {
        self.numbers.get(&number).map(shown)
    }

    /// Their namespaces.
    pub fn namespaces(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.relations.keys().map(|name| name.namespace.as_str()).collect();
        all.dedup();
        all
    }

    /// Their names, for messages.
    pub fn known(&self) -> Vec<String> {
        self.relations.keys().map(shown).collect()
    }
}

/// The name as it has to be written.
fn shown(name: &Name) -> String {
    if name.namespace == PUBLIC { name.name.clone() } else { format!("{}.{}", name.namespace, name.name) }
}

/// A number made of a name, among those that Postgres leaves to its users.
pub fn number(name: &str) -> i32 {
    let room = i32::MAX as u64 - FIRST_NUMBER;
    i32::try_from(FIRST_NUMBER + xxh3_64(name.as_bytes()) % room).expect("below the largest")
}
