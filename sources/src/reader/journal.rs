//! Ticks that a record would not get again: those of records that came when their partition's frontier had passed their append time.

use std::collections::BTreeMap;
use std::sync::Arc;

use operators::time::Tick;

use crate::delivery::SourceError;

/// Keeps them, so that whoever reads the records again gives them the same.
pub trait Journal: Send + Sync {
    /// Notes offsets of a partition with their ticks. When it returns, they outlive the process.
    ///
    /// # Errors
    /// They cannot be kept: the records must not go on.
    fn note(&self, topic: &str, partition: i32, ticks: &[(i64, Tick)]) -> Result<(), SourceError>;
}

/// Ticks by topic, partition and offset.
pub type Ticks = BTreeMap<(String, i32), BTreeMap<i64, Tick>>;

/// What a reader knows of such ticks, and where it notes new ones.
#[derive(Clone)]
pub struct Repeats {
    /// Of records that were read before.
    pub known: Arc<Ticks>,
    /// Takes those of records that were not.
    pub journal: Arc<dyn Journal>,
}
