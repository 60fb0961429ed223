//! Which rows a subscription or a snapshot is about. A filter looks at one row and nothing else, so that the same row gets
//! the same answer in a snapshot and in every delta.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashSet;
use operators::error::{Refusal, excerpt};
use operators::record::telemetry::validate_device_id;

use crate::memory::{Layout, RowView};

/// A rectangle on the map, in degrees, its edges included. `west > east` spans the antimeridian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    west: f64,
    south: f64,
    east: f64,
    north: f64,
}

impl Bounds {
    /// Bounds of `[minLon, minLat, maxLon, maxLat]`.
    ///
    /// # Errors
    /// `bounds_invalid`: a number outside the globe, or the south above the north.
    pub fn new([west, south, east, north]: [f64; 4]) -> Result<Self, Refusal> {
        let longitudes = [west, east].iter().all(|lon| (-180.0..=180.0).contains(lon));
        let latitudes = [south, north].iter().all(|lat| (-90.0..=90.0).contains(lat)) && south <= north;
        if longitudes && latitudes {
            return Ok(Self { west, south, east, north });
        }
        let rule =
            if longitudes { "latitudes lie within -90…90, minLat first" } else { "longitudes lie within -180…180" };
        Err(bounds_invalid(format!("{west},{south},{east},{north}: {rule}")))
    }

    /// Bounds of the text `minLon,minLat,maxLon,maxLat`.
    ///
    /// # Errors
    /// `bounds_invalid`: not four numbers, or as [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|part| part.trim().parse()).collect();
        match numbers.ok().and_then(|numbers| <[f64; 4]>::try_from(numbers).ok()) {
            Some(numbers) => Self::new(numbers),
            None => Err(bounds_invalid(format!("{} is not four numbers", excerpt(text)))),
        }
    }

    fn contains(&self, lat: f64, lon: f64) -> bool {
        let within = if self.west <= self.east {
            (self.west..=self.east).contains(&lon)
        } else {
            lon >= self.west || lon <= self.east
        };
        within && (self.south..=self.north).contains(&lat)
    }
}

fn bounds_invalid(message: String) -> Refusal {
    Refusal::new("bounds_invalid", message).at("bounds").hint("bounds are minLon,minLat,maxLon,maxLat in degrees")
}

/// A list of ids; empty stands for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(Option<Arc<HashSet<Box<str>>>>);

impl Ids {
    /// Checks and keeps a list of ids that came in as `field`.
    ///
    /// # Errors
    /// `id_invalid`: one breaks the rules of ids. `vehicle_limit`: more than `ids_max`.
    pub fn new(field: &'static str, ids: &[impl AsRef<str>], ids_max: usize) -> Result<Self, Refusal> {
        let rule = "an id is 1 to 64 of A-Z a-z 0-9 . _ : -";
        Self::checked(field, ids, ids_max, rule, |id| validate_device_id(id).is_ok())
    }

    /// Checks and keeps a list of names that came in as `field`; a name may have any printable character.
    ///
    /// # Errors
    /// `id_invalid` or `vehicle_limit`, as [`new`](Self::new).
    pub fn names(field: &'static str, names: &[impl AsRef<str>], ids_max: usize) -> Result<Self, Refusal> {
        let rule = "a name is 1 to 64 printable characters";
        let is_name = |name: &str| (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        Self::checked(field, names, ids_max, rule, is_name)
    }

    fn checked(
        field: &'static str,
        ids: &[impl AsRef<str>],
        ids_max: usize,
        rule: &'static str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<Self, Refusal> {
        if ids.len() > ids_max {
            let message = format!("{} ids, at most {ids_max}", ids.len());
            return Err(Refusal::new("vehicle_limit", message).at(field).hint("filter by company, group or bounds"));
        }
        if let Some(bad) = ids.iter().find(|id| !is_valid(id.as_ref())) {
            let message = format!("\"{}\" cannot be a {field}", excerpt(bad.as_ref()));
            return Err(Refusal::new("id_invalid", message).at(field).hint(rule));
        }
        let set: HashSet<Box<str>> = ids.iter().map(|id| id.as_ref().into()).collect();
        Ok(Self((!set.is_empty()).then(|| Arc::new(set))))
    }

    fn admits(&self, id: &str) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.contains(id))
    }
}

impl Hash for Ids {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut ids: Vec<&str> = self.0.iter().flat_map(|ids| ids.iter().map(AsRef::as_ref)).collect();
        ids.sort_unstable();
        ids.hash(state);
    }
}

/// Numbers of the columns that filters look at.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    company: usize,
    groups: usize,
    lat: usize,
    lon: usize,
}

impl Places {
    /// Finds the columns.
    ///
    /// # Panics
    /// If the layout lacks one: only tables with these columns are given to the edge.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let find = |name| layout.find(name).unwrap_or_else(|| panic!("the table has no column {name}"));
        Self { company: find("company_id"), groups: find("group_ids"), lat: find("lat"), lon: find("lon") }
    }
}

/// Conditions that a row has to meet, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Companies, one of which the vehicle belongs to.
    pub companies: Ids,
    /// Groups, one of which the vehicle is in.
    pub groups: Ids,
    /// The vehicles themselves.
    pub vehicles: Ids,
    /// Where it is; a vehicle without a position is nowhere.
    pub bounds: Option<Bounds>,
}

impl Filter {
    /// Whether the row meets the conditions.
    #[must_use]
    pub fn admits(&self, places: &Places, row: &RowView<'_>) -> bool {
        self.vehicles.admits_text(|| row.key())
            && self.companies.admits_text(|| row.text(places.company))
            && (self.groups.0.is_none() || self.admits_groups(row.text(places.groups)))
            && self.bounds.is_none_or(|bounds| match (row.float(places.lat), row.float(places.lon)) {
                (Some(lat), Some(lon)) => bounds.contains(lat, lon),
                _ => false,
            })
    }

    fn admits_groups(&self, json: &str) -> bool {
        serde_json::from_str::<Vec<Cow<'_, str>>>(json)
            .is_ok_and(|groups| groups.iter().any(|group| self.groups.admits(group)))
    }
}

impl Ids {
    /// Asks for the row's text only if there is a list.
    fn admits_text<'a>(&self, text: impl FnOnce() -> &'a str) -> bool {
        self.0.is_none() || self.admits(text())
    }
}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.companies, &self.groups, &self.vehicles).hash(state);
        if let Some(Bounds { west, south, east, north }) = self.bounds {
            [west, south, east, north].map(f64::to_bits).hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        for (text, word) in [
            ("", "not four numbers"),
            ("1,2,3", "not four numbers"),
            ("1,2,3,4,5", "not four numbers"),
            ("a,2,3,4", "not four numbers"),
            ("NaN,2,3,4", "longitudes"),
            ("-181,2,3,4", "longitudes"),
            ("1,inf,3,4", "latitudes"),
            ("1,5,3,4", "minLat first"),
            ("1,2,3,91", "latitudes"),
        ] {
            let error = Bounds::parse(text).unwrap_err();
            assert_eq!(error.code, "bounds_invalid");
            assert!(error.message.contains(word), "{text}: {error}");
        }
        assert!(Bounds::parse(" 1, 2,3,4").is_ok());
    }

    #[test]
    fn bounds_may_span_the_antimeridian() {
        let bounds = Bounds::new([170.0, -10.0, -170.0, 10.0]).unwrap();
        assert!(bounds.contains(0.0, 175.0) && bounds.contains(0.0, -175.0) && bounds.contains(10.0, 170.0));
        assert!(!bounds.contains(0.0, 0.0) && !bounds.contains(11.0, 175.0));
    }

    #[test]
    fn ids_follow_the_rules_of_ids() {
        for bad in ["", "a b", "x\0", "🚚", "'; DROP", "k*", &"x".repeat(10_000)] {
            let error = Ids::new("company", &[bad], 10).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), ("id_invalid", Some("company")), "{bad}");
            assert!(error.message.chars().count() < 200, "{bad}");
        }
        assert_eq!(Ids::new("vehicle", &["a", "b", "c"], 2).unwrap_err().code, "vehicle_limit");
        assert!(Ids::new("vehicle", &[""; 0], 2).unwrap().admits("whatever"));
    }
}
