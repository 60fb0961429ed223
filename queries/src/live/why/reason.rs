//! Where a key stops on its way through a plan, and why there.
//!
//! Invariant: what is said was counted; nothing is guessed. What cannot be known is not said.

use datafusion::common::JoinType;
use datafusion::error::Result;

use super::point::{Point, Speech, row_of, rows};
use super::seen::Keys;
use crate::plan::{Join, Kind, Meets, Op, Retention, spoken, text, told_bound};
use crate::trial::cells::shown_time;

/// The operator from which on the rows of a key are not there.
pub fn stop<'b, 'a>(point: &'b Point<'a>) -> &'b Point<'a> {
    let needed: Vec<&Point<'a>> = match (&point.step.node.op, point.inputs.as_slice()) {
        (Op::Join(join), [left, right]) => match join.kind {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => vec![left, right],
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => vec![left],
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => vec![right],
            JoinType::Full => any_of(&point.inputs),
        },
        (Op::Union(_), inputs) => any_of(inputs),
        (_, inputs) => inputs.iter().collect(),
    };
    needed.into_iter().find(|input| !input.is_there()).map_or(point, stop)
}

/// Of inputs of which one would do: none if one is there, else the one that came furthest.
fn any_of<'b, 'a>(inputs: &'b [Point<'a>]) -> Vec<&'b Point<'a>> {
    if inputs.iter().any(Point::is_there) {
        return Vec::new();
    }
    inputs.iter().max_by_key(|input| input.was_there()).into_iter().collect()
}

impl Speech<'_> {
    /// Why the rows of the key end here.
    pub fn reason(&self, point: &Point<'_>) -> String {
        let told = match &point.step.built.op {
            _ if self.faulty(point).is_some() && !point.was_there() => Ok(self.faulty(point)),
            Op::Get(_) => Ok(Some(self.at_source(point))),
            Op::Map { .. } if !point.was_there() => Ok(self.at_filter(point)),
            Op::Join(join) => self.at_join(point, join),
            Op::TopK { .. } => self.at_top(point),
            Op::Temporal { .. } => self.at_bound(point),
            _ => Ok(self.at_groups(point)),
        };
        told.ok().flatten().unwrap_or_else(|| self.gone(point))
    }

    /// What could not be computed.
    pub fn faulty(&self, point: &Point<'_>) -> Option<String> {
        let faults = &point.noted.seen.faults;
        let (fault, count) = faults.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 0)?;
        let of = self.conditions(&point.step.rows, &point.step.node);
        let of = of.map(|of| format!(" that may have {of}")).unwrap_or_default();
        Some(match fault.operator.as_str() {
            "Late" => format!("{}{of} came too late: {}", rows(*count), fault.message),
            operator => format!("{}{of} without a result: {operator}: {}", rows(*count), fault.message),
        })
    }

    fn gone(&self, point: &Point<'_>) -> String {
        let of = self.conditions(&point.step.rows, &point.step.node).unwrap_or_else(|| "its rows".to_owned());
        match point.noted.seen.left {
            Some(left) => format!("the last row of {} with {of} left at {}", point.called(), shown_time(left)),
            None => format!("no row comes out of {} with {of}", point.called()),
        }
    }

    fn at_source(&self, point: &Point<'_>) -> String {
        let Some((gate, through)) = point.gate else { return self.gone(point) };
        let (name, node) = (&gate.name, &point.step.node);
        if through.seen <= 0 && !point.was_there() {
            return format!("{name} has no rows");
        }
        let columns = self.columns(node);
        let Some(all) = self.conditions(&point.step.rows, node) else { return self.gone(point) };
        let held = gate.needed.iter().zip(&through.held);
        let held = held.map(|(one, held)| format!("{held} with {}", self.condition(one, &columns)));
        let held = if gate.needed.len() > 1 { held.collect::<Vec<_>>().join(", ") } else { String::new() };
        let colon = if held.is_empty() { "" } else { ": " };
        let mut told = format!("no row of {name} has {all} (of {}{colon}{held})", rows(through.seen.max(0)));
        if let (true, Some(left)) = (point.was_there(), point.noted.seen.left) {
            told += &format!("; one was there until {}", shown_time(left));
        }
        told
    }

    fn at_filter(&self, point: &Point<'_>) -> Option<String> {
        let input = point.inputs.first()?;
        let (checks, columns) = (&point.noted.checks, self.columns(&input.step.node));
        let never: Vec<String> =
            checks.iter().filter(|check| check.passed <= 0).map(|check| Speech::check(check, &columns)).collect();
        let of = self.conditions(&input.step.rows, &input.step.node);
        let of = of.map(|of| format!(" with {of}")).unwrap_or_default();
        let from = format!("of {} of {}{of}", input.count(), input.source());
        if checks.is_empty() {
            return None;
        }
        if !never.is_empty() {
            return Some(format!("{from} none passes {}", never.join(" and ")));
        }
        let each = checks.iter().map(|check| format!("{} pass {}", check.passed, Speech::check(check, &columns)));
        Some(format!("{from} none passes all conditions: {}", each.collect::<Vec<_>>().join(", ")))
    }

    fn at_join(&self, point: &Point<'_>, join: &Join) -> Result<Option<String>> {
        let [left, right] = point.inputs.as_slice() else { return Ok(None) };
        // Events that met none were there until one came, and that one tells more than that they left.
        let came_alone = matches!(join.meets, Meets::Within(_)) && point.was_there();
        if point.was_there() && left.is_there() && right.is_there() && !came_alone {
            return Ok(Some(format!("{}; no pair of rows is there now", self.gone(point))));
        }
        // From the side whose rows are looked at.
        let from_right = match join.kind {
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => true,
            _ if left.step.node.kind != right.step.node.kind => right.step.node.kind == Kind::Events,
            // Rows of which it is known that they are of the key say more.
            JoinType::Inner => left.step.rows.is_empty() && !right.step.rows.is_empty(),
            _ => false,
        };
        let (one, other) = if from_right { (right, left) } else { (left, right) };
        let Some((at, row)) = one.noted.seen.newest() else { return Ok(None) };
        let row = row_of(&one.step.built, row)?;
        let keys = Keys::new(join, from_right)?;
        let others = &point.noted.partners[usize::from(!from_right)];
        let met = keys.met(&row, others)?;
        let names = self.columns(&one.step.node);
        let by = join.on.iter().map(|(left, right)| text(if from_right { right } else { left }, &names));
        let wanted = Speech::values(&by.collect::<Vec<_>>(), &keys.values(&row)?);
        let (meet, other) = (one.do_this("meets", "meet"), other.called());
        let anti = matches!(join.kind, JoinType::LeftAnti | JoinType::RightAnti);
        let events = one.step.node.kind == Kind::Events;
        if let (true, Some(left)) = (came_alone && met.is_some(), point.noted.seen.left) {
            let left = shown_time(left);
            let of =
                if anti { "only those that meet none stay" } else { "it is there with nulls only while it meets none" };
            return Ok(Some(format!("{meet} a row of {other} with {wanted}, which came at {left}: {of}")));
        }
        Ok(Some(match met {
            Some(_) if anti => format!("{meet} a row of {other} with {wanted}, and only those that meet none stay"),
            None if others.more => format!("{meet} none of {other}"),
            None => format!("{meet} none of {other}: there is no row with {wanted}"),
            Some((_, since)) if events && since >= at && matches!(join.meets, Meets::Now) => format!(
                "{meet} none of {other}: the row with {wanted} came at {}, and the last of them at {}",
                shown_time(since),
                shown_time(at)
            ),
            Some((count, _)) if count <= 0 => {
                format!("{meet} none of {other}: the row with {wanted} is not there any more")
            }
            Some(_) => match &join.filter {
                Some(filter) => {
                    let names = self.columns(&left.step.node).into_iter().chain(self.columns(&right.step.node));
                    let filter = text(filter, &names.collect::<Vec<_>>());
                    format!("{meet} rows of {other} with {wanted}, but for no pair is {filter} true")
                }
                None => format!("{meet} none of {other}: a row with {wanted} was not there at the same time"),
            },
        }))
    }

    fn at_top(&self, point: &Point<'_>) -> Result<Option<String>> {
        let (Op::TopK { partition, order, skip, fetch, .. }, [input]) = (&point.step.built.op, point.inputs.as_slice())
        else {
            return Ok(None);
        };
        let example = input.noted.seen.examples().into_iter().next_back();
        let Some(row) = example else { return Ok(None) };
        let codec = operators::row::Codec::new(input.step.built.schema.clone())?;
        let Some((before, all)) = point.noted.contenders.place(&row, &codec, partition, order)? else {
            return Ok(None);
        };
        let columns = self.columns(&input.step.node);
        let by: Vec<String> = order.iter().map(|(by, _)| text(by, &columns)).collect();
        let after = if *skip > 0 { format!(" after {skip}") } else { String::new() };
        Ok(Some(format!(
            "it is number {} of {all} in its group by ({}), of which the first {fetch}{after} stay",
            before + 1,
            by.join(", ")
        )))
    }

    fn at_bound(&self, point: &Point<'_>) -> Result<Option<String>> {
        let (Op::Temporal { bounds, .. }, [input]) = (&point.step.built.op, point.inputs.as_slice()) else {
            return Ok(None);
        };
        let Some((_, row)) = input.noted.seen.newest() else { return Ok(None) };
        let (row, columns) = (row_of(&input.step.built, row)?, self.columns(&input.step.node));
        let told = bounds.iter().map(|bound| {
            let at = bound.at.evaluate(&row)?.into_array(1)?;
            Ok(format!("{}, which is {}", told_bound(bound, &columns), super::point::written(&at)))
        });
        let told = told.collect::<Result<Vec<_>>>()?.join(" and ");
        let count = input.count();
        let of = if count == "1 row" { "its row".to_owned() } else { format!("the last of its {count}") };
        let was = point.noted.seen.left.map(|left| format!("; it left at {}", shown_time(left))).unwrap_or_default();
        Ok(Some(format!("{of} is there while {told}{was}")))
    }

    /// Groups, sessions, stops: what they are made of came, and they did not or are over.
    fn at_groups(&self, point: &Point<'_>) -> Option<String> {
        let retention = match &point.step.built.op {
            Op::Reduce { retention, .. } | Op::Sessions { retention, .. } | Op::Journeys { retention, .. } => {
                *retention
            }
            Op::Geofences { rules, .. } => Some(Retention { key: 0, ms: rules.retention_ms }),
            _ => None,
        };
        let left = point.noted.seen.left.filter(|_| point.was_there())?;
        let retention = retention?;
        let mut told = format!(
            "it was there until {}, and then left: what is older than its time and the retention of {} leaves",
            shown_time(left),
            spoken(retention.ms)
        );
        if let Some(late) = self.faulty(point) {
            told += &format!("; {late}");
        }
        Some(told)
    }
}
