//! Fences found by the grid against all fences one after the other, while they come, change and go. Would catch a fence that is
//! missed at the edge of a square, one that stays where it was before it moved, one of another company, and a count that
//! does not follow.

use std::collections::BTreeMap;

use super::*;
use crate::random::Random;

impl Random {
    fn degrees(&mut self, middle: f64, reach: f64) -> f64 {
        middle + reach * (self.below(2_000_001) as f64 / 1_000_000.0 - 1.0)
    }

    fn point(&mut self) -> Point {
        // Fences meet in the middle, and at the edges of the Earth.
        let middle = [(50.0, 8.0), (-33.0, -70.0), (0.0, 0.0), (0.0, 179.9), (-60.0, -179.9)][self.below(5) as usize];
        Point { lat: self.degrees(middle.0, 0.04), lon: self.degrees(middle.1, 0.04) }
    }

    fn shape(&mut self) -> Option<Shape> {
        let (at, size_m) = (self.point(), (1u64 << self.below(16)) as f64);
        let far = size_m / 111_195.0;
        let near = |random: &mut Random| (random.degrees(at.lon, far), random.degrees(at.lat, far));
        let (kind, text) = match self.below(3) {
            0 => ("circle", format!("POINT ({} {})", at.lon, at.lat)),
            1 => {
                let [a, b, c] = [near(self), near(self), near(self)];
                ("polygon", format!("POLYGON (({} {}, {} {}, {} {}, {} {}))", a.0, a.1, b.0, b.1, c.0, c.1, a.0, a.1))
            }
            _ => {
                let (a, b) = (near(self), near(self));
                ("corridor", format!("LINESTRING ({} {}, {} {})", a.0, a.1, b.0, b.1))
            }
        };
        Shape::read(Some(kind), Some(&text), Some(size_m.min(9_000.0))).ok()
    }
}

#[test]
fn the_grid_finds_what_all_fences_asked_one_by_one_say() {
    let (mut found, mut refused) = (0, 0);
    for seed in 1..40u64 {
        let mut random = Random(seed * 0x9E37_79B9);
        let margin_m = [0.0, 25.0, 3_000.0][random.below(3) as usize];
        let (mut fences, mut all) = (Fences::new(margin_m), BTreeMap::new());
        for tick in 0..200 {
            let (company, id) = (format!("c{}", random.below(3)), format!("f{}", random.below(60)));
            if random.below(4) == 0 {
                assert_eq!(fences.remove(tick, &company, &id), all.remove(&(company, id)).is_some());
            } else if let Some(shape) = random.shape() {
                fences.put(tick, &company, &id, None, shape.clone());
                all.insert((company, id), shape);
            } else {
                refused += 1;
            }
            assert_eq!(fences.count(), all.len());
            let (at, company) = (random.point(), format!("c{}", random.below(4)));
            let mut said = Vec::new();
            fences.ask(Some(&company), at, &mut said).expect("not so many");
            let said: Vec<(&str, bool)> = said.iter().map(|says| (&*says.fence.fence_id, says.inside)).collect();
            let own = all.iter().filter(|((of, _), _)| *of == company);
            let wanted: Vec<(&str, bool)> =
                own.filter_map(|((_, id), shape)| Some((id.as_str(), shape.locate(at, margin_m)?))).collect();
            assert_eq!(said, wanted, "seed {seed} at {tick}");
            found += wanted.len();
        }
        for (company, id) in all.keys() {
            assert!(fences.remove(200, company, id));
        }
        assert_eq!(
            (fences.count(), fences.bytes(), fences.companies.len()),
            (0, 0, 0),
            "nothing stays of what has gone"
        );
    }
    assert!(found > 3_000 && refused > 100, "{found} found, {refused} refused");
}

#[test]
fn a_position_in_too_many_fences_is_refused() {
    let mut fences = Fences::new(0.0);
    let shape = Shape::read(Some("circle"), Some("POINT (8 50)"), Some(100.0)).expect("a circle");
    let at = Point { lat: 50.0, lon: 8.0 };
    let mut said = Vec::new();
    for number in 0..AT_ONCE_MAX {
        fences.put(1, "c", &format!("f{number}"), None, shape.clone());
    }
    assert_eq!(fences.ask(Some("c"), at, &mut said), Ok(()));
    assert_eq!(said.len(), AT_ONCE_MAX);
    fences.put(2, "c", "one more", None, shape);
    assert_eq!(fences.ask(Some("c"), at, &mut said), Err(TooMany));
    assert!(said.is_empty());
    assert_eq!(fences.ask(Some("c2"), at, &mut said), Ok(()));
    assert_eq!(fences.ask(None, at, &mut said), Ok(()));
}
