//! Live relations with the history beside them: the tables of the namespace `history`, which a question may join with the rest.
//!
//! Invariant: only the files of these tables are read, by their names; no path comes from a question.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use operators::error::Refusal;

use super::{HISTORY, Kind, Name, Relation, Relations, Snapshot};
use crate::history::{TABLES, Table};

/// Both.
pub(super) struct WithHistory {
    live: Arc<dyn Relations>,
    directory: PathBuf,
}

impl WithHistory {
    /// The history below `directory`, where a process writes it or not yet.
    pub fn new(live: Arc<dyn Relations>, directory: PathBuf) -> Self {
        Self { live, directory }
    }
}

impl Relations for WithHistory {
    fn list(&self) -> Vec<Relation> {
        let old = |table: &Table| Relation {
            name: Name::new(HISTORY, table.short_name()),
            schema: table.shown_schema(),
            key: Vec::new(),
            access: table.access.map(str::to_owned),
            kind: Kind::History,
        };
        self.live.list().into_iter().chain(TABLES.iter().map(old)).collect()
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        self.live.snapshot_all(names)
    }

    fn why_not(&self, name: &Name) -> Option<Refusal> {
        if name.namespace != HISTORY {
            return self.live.why_not(name);
        }
        let message = format!("history.{} has no row by a key, and no first ones", name.name);
        Some(
            Refusal::new("key_unknown", message)
                .hint("ask for it in SQL, over the Postgres wire or by haulstream history"),
        )
    }

    fn history(&self) -> Option<&Path> {
        Some(&self.directory)
    }
}

/// The table of the history that is called so.
pub(super) fn table(name: &Name) -> Option<Table> {
    TABLES.iter().find(|table| name.namespace == HISTORY && table.short_name() == name.name).copied()
}
