//! What a client asked for: a filter and the fields that it wants, checked, and comparable, so that clients who ask for the
//! same are given the same encoding.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use operators::error::{Refusal, excerpt};

use super::filter::{Bounds, Filter, Ids, Places};
use crate::memory::{Layout, RowView};

/// What a request says of the filter and the fields; `None` leaves that part as it was.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    /// Companies; empty for any.
    pub company: Option<Vec<String>>,
    /// Groups; empty for any.
    pub group: Option<Vec<String>>,
    /// Vehicles; empty for any.
    pub vehicle: Option<Vec<String>>,
    /// Bounds; `Some(None)` for everywhere.
    pub bounds: Option<Option<Bounds>>,
    /// Names of fields; empty for all.
    pub fields: Option<Vec<String>>,
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct Selection {
    filter: Filter,
    places: Places,
    /// Mask of the columns that are wanted beside the key.
    fields: u64,
    hash: u64,
}

impl Selection {
    /// Everything.
    #[must_use]
    pub fn all(layout: &Layout) -> Self {
        Self { filter: Filter::default(), places: Places::new(layout), fields: layout.all(), hash: 0 }.hashed()
    }

    /// This selection with the given parts replaced. A list holds at most `ids_max` ids.
    ///
    /// # Errors
    /// `id_invalid`, `vehicle_limit` or `field_unknown`.
    pub fn patched(&self, patch: &Patch, layout: &Layout, ids_max: usize) -> Result<Self, Refusal> {
        let mut new = self.clone();
        if let Some(ids) = &patch.company {
            new.filter.companies = Ids::new("company", ids, ids_max)?;
        }
        if let Some(ids) = &patch.group {
            new.filter.groups = Ids::names("group", ids, ids_max)?;
        }
        if let Some(ids) = &patch.vehicle {
            new.filter.vehicles = Ids::new("vehicle", ids, ids_max)?;
        }
        if let Some(bounds) = patch.bounds {
            new.filter.bounds = bounds;
        }
        if let Some(names) = &patch.fields {
            new.fields = if names.is_empty() { layout.all() } else { mask(names, layout)? };
        }
        Ok(new.hashed())
    }

    fn hashed(mut self) -> Self {
        // Not randomly keyed: equal selections have to have equal hashes.
        let mut hasher = DefaultHasher::new();
        (&self.filter, self.fields).hash(&mut hasher);
        self.hash = hasher.finish();
        self
    }

    /// Whether a row belongs to it.
    #[must_use]
    pub fn admits(&self, row: &RowView<'_>) -> bool {
        self.filter.admits(&self.places, row)
    }

    /// Mask of the columns that are wanted beside the key.
    #[must_use]
    pub fn fields(&self) -> u64 {
        self.fields
    }
}

/// A selection as the key of what was encoded for it.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Selection>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (&*self.0, &*other.0);
        Arc::ptr_eq(&self.0, &other.0)
            || (mine.hash == theirs.hash && mine.fields == theirs.fields && mine.filter == theirs.filter)
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash.hash(state);
    }
}

fn mask(names: &[String], layout: &Layout) -> Result<u64, Refusal> {
    names.iter().try_fold(0, |mask, name| match layout.find(name) {
        Some(column) => Ok(mask | 1 << column),
        None if name == "version" => Ok(mask),
        None => {
            let known = layout.columns().iter().map(|column| column.name.as_str());
            Err(unknown("field_unknown", "field", name, known).at("fields"))
        }
    })
}

/// Refuses a name, with the nearest of the known ones.
#[must_use]
pub fn unknown<'a>(code: &'static str, what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Refusal {
    let shown = excerpt(name);
    // Names from outside are cut before they are measured: the distance takes time by length.
    let distance = |known: &&str| strsim::damerau_levenshtein(&shown, known);
    let nearest = known.into_iter().map(|known| (distance(&known), known)).min();
    let message = match nearest {
        Some((distance, nearest)) if distance * 2 <= nearest.len() => {
            format!("no {what} \"{shown}\"; did you mean \"{nearest}\"?")
        }
        _ => format!("no {what} \"{shown}\""),
    };
    Refusal::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_requests_are_one_key() {
        let layout = Layout::vehicle_state();
        let all = Selection::all(&layout);
        let patch = |ids: &[&str], bounds| Patch {
            vehicle: Some(ids.iter().map(ToString::to_string).collect()),
            bounds: Some(bounds),
            ..Patch::default()
        };
        let made = |patch: &Patch| Shared(Arc::new(all.patched(patch, &layout, 10).unwrap()));
        let bounds = Some(Bounds::new([0.0, 0.0, 1.0, 1.0]).unwrap());
        assert_eq!(made(&patch(&["a", "b"], bounds)), made(&patch(&["b", "a", "a"], bounds)));
        assert_ne!(made(&patch(&["a", "b"], bounds)), made(&patch(&["a", "b"], None)));
        assert_ne!(made(&patch(&["a"], None)), made(&patch(&["b"], None)));
        assert_eq!(made(&patch(&[], None)), Shared(Arc::new(all.clone())));
    }

    #[test]
    fn fields_are_known_by_name() {
        let layout = Layout::vehicle_state();
        let all = Selection::all(&layout);
        let fields = |names: &[&str]| {
            let fields = Some(names.iter().map(ToString::to_string).collect());
            all.patched(&Patch { fields, ..Patch::default() }, &layout, 10)
        };
        let narrow = fields(&["lat", "lon", "version"]).unwrap();
        assert_eq!(narrow.fields().count_ones(), 2);
        assert_eq!(fields(&[]).unwrap().fields(), layout.all());
        let error = fields(&["lat", "sped_kmh"]).unwrap_err();
        assert_eq!(error.message, "no field \"sped_kmh\"; did you mean \"speed_kmh\"?");
        assert_eq!(fields(&[&"x\n".repeat(50_000)]).unwrap_err().code, "field_unknown");
    }
}
