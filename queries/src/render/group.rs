//! State by key: changes of a tick are gathered until the tick is closed, then given to the groups in key order.
//!
//! Invariant: what a group puts out depends on its rows at the tick alone, not on how they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use differential_dataflow::AsCollection;
use differential_dataflow::consolidation::consolidate;
use operators::row::{Diff, Row};
use operators::time::{Tick, closed_before};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::{Fault, Keyed, Table};

/// What becomes of groups of rows.
pub trait Groups: 'static {
    /// What is there before any row came; asked on the worker that has the empty key.
    fn start(&mut self, _out: &mut Out) {}

    /// Takes the changes of one tick in, ordered by key and then row, and tells what they change.
    fn change(&mut self, tick: Tick, changes: &[((Row, Row), Diff)], out: &mut Out);

    /// The next tick at which something changes by itself; [`change`](Self::change) is called then at the latest.
    fn due(&self) -> Option<Tick> {
        None
    }

    /// What is kept.
    fn size(&self) -> Size;
}

/// Changes that wait for their tick to close.
#[derive(Default)]
struct Waiting {
    changes: Vec<((Row, Row), Diff)>,
    size: Size,
}

/// What changes at a tick.
#[derive(Debug, Default)]
pub struct Out {
    /// Rows that come and go.
    pub rows: Vec<(Row, Diff)>,
    /// Faults that come and go.
    pub faults: Vec<(Row, Diff)>,
}

impl Out {
    /// The old row goes, the new one comes, if they differ.
    pub fn replace(&mut self, old: Option<&Row>, new: Option<&Row>) {
        if old == new {
            return;
        }
        self.rows.extend(old.map(|row| (row.clone(), -1)));
        self.rows.extend(new.map(|row| (row.clone(), 1)));
    }

    /// The same for faults.
    pub fn fault(&mut self, name: &str, old: Option<&str>, new: Option<&str>) {
        if old == new {
            return;
        }
        self.faults.extend(old.map(|why| (Fault::row(name, why), -1)));
        self.faults.extend(new.map(|why| (Fault::row(name, why), 1)));
    }
}

/// Keeps groups; each key lives on one worker.
pub fn group<'s>(keyed: Keyed<'s>, name: &str, mut groups: impl Groups, gauge: Arc<Gauge>) -> (Table<'s>, Table<'s>) {
    let scope = keyed.inner.scope();
    let (index, peers) = (scope.index() as u64, scope.peers() as u64);
    let mut builder = OperatorBuilder::new(name.into(), scope);
    let exchange = Exchange::new(|((key, _), _, _): &((Row, Row), Tick, Diff)| key.spread());
    let mut input = builder.new_input(keyed.inner, exchange);
    let (outputs, rows, faults) = Outputs::add(&mut builder);
    builder.build(move |capabilities| {
        let mut starting = (Row::default().spread() % peers == index).then_some(());
        let mut closing = Closing::new(outputs, capabilities);
        let mut pending: BTreeMap<Tick, Waiting> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|_, updates| {
                for (data, tick, diff) in updates.drain(..) {
                    let waiting = pending.entry(tick).or_default();
                    waiting.size += Size::of_pair(&data.0, &data.1);
                    waiting.changes.push((data, diff));
                }
            });
            let upto = closed_before(frontiers[0].frontier());
            if starting.is_some() && upto > 0 {
                pending.entry(0).or_default();
            }
            let mut out = Out::default();
            while let Some(tick) = next(pending.first_key_value().map(|(tick, _)| *tick), groups.due(), upto) {
                let mut changes = pending.remove(&tick).unwrap_or_default().changes;
                if tick == 0 && starting.take().is_some() {
                    groups.start(&mut out);
                }
                consolidate(&mut changes);
                groups.change(tick, &changes, &mut out);
                closing.take(tick, &mut out);
            }
            gauge.set(pending.values().fold(groups.size(), |sum, waiting| sum + waiting.size));
            closing.close(upto);
        }
    });
    (rows.as_collection(), faults)
}

/// What was computed for the ticks that are being closed, on its way out.
pub struct Closing {
    outputs: Outputs<Updates>,
    /// For rows and for faults; none once the input has ended.
    held: Option<Vec<Capability<Tick>>>,
    rows: Updates,
    faults: Updates,
}

impl Closing {
    pub fn new(outputs: Outputs<Updates>, capabilities: Vec<Capability<Tick>>) -> Self {
        Self { outputs, held: Some(capabilities), rows: Vec::new(), faults: Vec::new() }
    }

    /// Takes what changes at a tick.
    pub fn take(&mut self, tick: Tick, out: &mut Out) {
        self.rows.extend(out.rows.drain(..).map(|(row, diff)| (row, tick, diff)));
        self.faults.extend(out.faults.drain(..).map(|(row, diff)| (row, tick, diff)));
    }

    /// Takes rows and faults that are ready.
    pub fn add(&mut self, rows: Updates, faults: Updates) {
        self.rows.extend(rows);
        self.faults.extend(faults);
    }

    /// Gives it out; nothing before `upto` comes any more.
    pub fn close(&mut self, upto: Tick) {
        let Some(held) = &mut self.held else { return };
        self.outputs.rows(&held[0], std::mem::take(&mut self.rows));
        self.outputs.faults(&held[1], std::mem::take(&mut self.faults));
        match upto {
            Tick::MAX => self.held = None,
            upto => held.iter_mut().for_each(|held| held.downgrade(&upto)),
        }
    }
}

/// The next tick before `upto` at which there is something to do: `data` has the next rows, at `due` something changes by
/// itself. Input that has ended moves time no more, and with it no timer.
pub fn next(data: Option<Tick>, due: Option<Tick>, upto: Tick) -> Option<Tick> {
    let data = data.filter(|tick| *tick < upto);
    let timer = due.filter(|tick| *tick < upto && (upto != Tick::MAX || data.is_some_and(|data| *tick <= data)));
    data.into_iter().chain(timer).min()
}

/// The runs of changes that have one key.
pub fn by_key<D>(changes: &[((Row, D), Diff)]) -> impl Iterator<Item = &[((Row, D), Diff)]> {
    changes.chunk_by(|((a, _), _), ((b, _), _)| a == b)
}

/// What differs between two ordered lists of rows.
pub fn difference(old: &[Row], new: &[Row], out: &mut Out) {
    let (mut o, mut n) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (o.peek(), n.peek()) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        if order.is_lt() {
            out.rows.extend(o.next().map(|row| (row.clone(), -1)));
        } else if order.is_gt() {
            out.rows.extend(n.next().map(|row| (row.clone(), 1)));
        } else {
            o.next();
            n.next();
        }
    }
}
