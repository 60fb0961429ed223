//! A plan that is followed, run once over the log and over what tables hold, on a thread of its own, with an eye on every
//! operator.
//!
//! Invariant: the operators are those of the running streams, and nothing of these is touched. It ends when nobody waits for
//! it, when its time is over, and when it takes too much.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::error::Result as Planned;
use differential_dataflow::AsCollection;
use operators::batch::Batch;
use operators::error::Refusal;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input as _, InspectCore, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;

use super::seen::{Check, Contenders, Keys, Partners, Passing, Seen, Watcher};
use super::sieve::Sieve;
use super::trace::{Gate, Step, Trace};
use crate::live::feed::Feed;
use crate::live::keep::Held;
use crate::live::port::{Parcel, Updates};
use crate::plan::{Kind, Node, Op};
use crate::render::{Builder, Rendered, Usage};

/// Longest sleep when nothing has been read.
const PARK: Duration = Duration::from_millis(2);

/// What is run.
pub struct Question {
    pub trace: Arc<Trace>,
    /// The log, as it is read; none if all that is needed is kept.
    pub log: Option<Log>,
    /// Rows of tables that are kept, by name.
    pub content: BTreeMap<String, Vec<(Row, Diff)>>,
    /// The tick after that of the content: events before it count.
    pub first: Tick,
    pub deadline: Instant,
    pub bytes_max: u64,
    /// Whether nobody waits any more.
    pub stopped: Arc<AtomicBool>,
}

/// The log, as it is read.
pub struct Log {
    pub feed: Arc<Feed>,
    /// How far it is worked off.
    pub made: Arc<Held>,
    /// Tells the reader how the running streams do.
    pub keep_up: Box<dyn Fn(&Feed) + Send + Sync>,
}

/// What was noted at one operator.
#[derive(Default)]
pub struct Noted {
    pub seen: Seen,
    /// Conditions of its filter.
    pub checks: Vec<Check>,
    /// Keys of the left and the right input of a join.
    pub partners: [Partners; 2],
    /// Of which it takes the first.
    pub contenders: Contenders,
}

/// What came to a gate.
pub struct Through {
    /// All rows.
    pub seen: i64,
    /// For how many each condition held.
    pub held: Vec<i64>,
}

/// What came of it.
pub struct Followed {
    /// In the order of the plan, each operator before its inputs.
    pub noted: Vec<Noted>,
    pub gates: Vec<Through>,
    /// Every tick before it was worked off.
    pub until: Tick,
    /// Whether that is all.
    pub complete: bool,
}

/// Runs it, on the calling thread.
///
/// # Errors
/// It takes too much, the log cannot be read, or nobody waits any more.
pub fn play(question: Question) -> Result<Followed, Refusal> {
    timely::execute_directly(move |worker| {
        let done = Run::new(worker, question).and_then(|run| run.follow(worker));
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        done
    })
}

enum Handle {
    Events(InputHandle<Tick, CapacityContainerBuilder<Batch>>),
    Table(InputHandle<Tick, CapacityContainerBuilder<Updates>>),
}

/// The way of one source into the dataflow.
struct Door {
    name: String,
    sieve: Sieve,
    codec: Codec,
    handle: Handle,
}

impl Door {
    fn new(gate: &Gate, handle: Handle) -> Planned<Self> {
        let codec = Codec::new(gate.schema.clone())?;
        Ok(Self { name: gate.name.clone(), sieve: Sieve::new(&gate.needed), codec, handle })
    }

    fn send(&mut self, parcel: &Parcel) -> Planned<()> {
        match (parcel, &mut self.handle) {
            (Parcel::Events(rows), Handle::Events(handle)) => {
                let stays = self.sieve.stays(rows, |_| 1)?;
                let rows = filter_record_batch(rows, &stays)?;
                if rows.num_rows() > 0 {
                    handle.send_batch(&mut Batch::from(rows));
                }
            }
            (Parcel::Updates(updates), Handle::Table(handle)) => {
                let rows = self.codec.decode(updates.iter().map(|(row, ..)| row))?;
                let stays = self.sieve.stays(&rows, |row| updates[row].2)?;
                let chosen = updates.iter().enumerate().filter(|(row, _)| stays.value(*row));
                chosen.for_each(|(_, update)| handle.send(update.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    fn advance(&mut self, tick: Tick) {
        match &mut self.handle {
            Handle::Events(handle) => handle.advance_to(tick),
            Handle::Table(handle) => handle.advance_to(tick),
        }
    }
}

type Notes = Vec<Rc<RefCell<Noted>>>;

struct Run {
    question: Question,
    doors: Vec<Door>,
    notes: Notes,
    probe: ProbeHandle<Tick>,
    usage: Arc<Usage>,
    until: Tick,
}

impl Run {
    fn new(worker: &mut Worker, question: Question) -> Result<Self, Refusal> {
        let (usage, probe) = (Arc::new(Usage::new(1)), ProbeHandle::new());
        let trace = question.trace.clone();
        let built = worker.dataflow::<Tick, _, _>(|scope| {
            let (mut inputs, mut doors, mut notes) = (HashMap::new(), Vec::new(), Notes::new());
            for gate in &trace.gates {
                let (handle, input) = match gate.kind {
                    Kind::Events => {
                        let mut handle = InputHandle::new();
                        let stream = scope.input_from(&mut handle);
                        (Handle::Events(handle), Rendered::Events(stream))
                    }
                    Kind::Table => {
                        let mut handle = InputHandle::new();
                        let stream = scope.input_from(&mut handle);
                        (Handle::Table(handle), Rendered::Table(stream.as_collection()))
                    }
                };
                doors.push(Door::new(gate, handle)?);
                inputs.insert(gate.input.clone(), input);
            }
            let mut builder = Builder::measured(scope, inputs, usage.clone());
            watch(&mut builder, &trace.root, &mut notes, &probe)?;
            Ok((doors, notes))
        });
        let (doors, notes) = built.map_err(failed)?;
        Ok(Self { question, doors, notes, probe, usage, until: 0 })
    }

    fn follow(mut self, worker: &mut Worker) -> Result<Followed, Refusal> {
        let mut content = std::mem::take(&mut self.question.content);
        let log = self.question.log.take();
        let complete = log.as_ref().map_or(Ok(true), |log| self.read(worker, log))?;
        // What is kept stands for the end: that of the log, or as far as it was read.
        let end = if complete { self.question.first } else { self.until };
        if let Some(log) = log.filter(|_| complete) {
            for (name, rows) in &mut content {
                if log.feed.names.contains(name) {
                    *rows = log.feed.correction(name, std::mem::take(rows));
                }
            }
        }
        for (name, rows) in content {
            let rows = rows.into_iter().map(|(row, diff)| (row, end, diff)).collect();
            self.send(&name, &Parcel::Updates(rows))?;
        }
        self.question.deadline += FINISH;
        let complete = self.advance(worker, end + 1)? && complete;
        let noted = self.notes.iter().map(|noted| noted.take()).collect();
        let gates = self.doors.iter().map(|door| Through { seen: door.sieve.seen, held: door.sieve.held.clone() });
        Ok(Followed { noted, gates: gates.collect(), until: self.until, complete })
    }

    /// Takes the log in; whether to its end.
    fn read(&mut self, worker: &mut Worker, log: &Log) -> Result<bool, Refusal> {
        loop {
            if let Some(why) = log.feed.failure() {
                return Err(Refusal::new("stream_past_unreadable", format!("the log cannot be read again: {why}"))
                    .hint("mend what is wrong with the log and ask again"));
            }
            if log.feed.is_stopped() {
                return Err(stopped());
            }
            // Before what there is is taken: nothing comes after it.
            let finished = log.feed.is_finished();
            let mut frontier = Tick::MAX;
            let mut any = false;
            for name in &log.feed.names {
                let (parcels, upto) = log.feed.take(0, name, true);
                frontier = frontier.min(upto);
                any |= !parcels.is_empty();
                parcels.iter().try_for_each(|parcel| self.send(name, parcel))?;
            }
            let frontier = frontier.min(self.question.first);
            if !self.advance(worker, frontier.max(self.until))? {
                return Ok(false);
            }
            log.made.advance(0, self.until);
            (log.keep_up)(&log.feed);
            if finished && frontier >= self.question.first {
                return Ok(true);
            }
            if !any {
                worker.step_or_park(Some(PARK));
            }
        }
    }

    fn send(&mut self, name: &str, parcel: &Parcel) -> Result<(), Refusal> {
        self.doors.iter_mut().filter(|door| door.name == name).try_for_each(|door| door.send(parcel)).map_err(failed)
    }

    /// Works everything before a tick off; whether there was time for it.
    fn advance(&mut self, worker: &mut Worker, tick: Tick) -> Result<bool, Refusal> {
        self.doors.iter_mut().for_each(|door| door.advance(tick));
        loop {
            if self.question.stopped.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            let bytes = self.usage.total().bytes;
            if bytes > i64::try_from(self.question.bytes_max).unwrap_or(i64::MAX) {
                let most = self.question.bytes_max;
                let message =
                    format!("what the operators keep for this key takes {bytes} bytes, of {most} (sql.bytes_max)");
                return Err(Refusal::new("why_too_large", message).hint("ask for less time, as by --since '1 hour'"));
            }
            if Instant::now() >= self.question.deadline {
                return Ok(false);
            }
            if !self.probe.less_than(&tick) {
                self.until = tick;
                return Ok(true);
            }
            worker.step();
        }
    }
}

/// Time for the last step, when all the rest is used up.
const FINISH: Duration = Duration::from_secs(2);

fn stopped() -> Refusal {
    Refusal::new("why_stopped", "nobody waits for the answer any more, or the process ends")
}

fn failed(why: datafusion::error::DataFusionError) -> Refusal {
    Refusal::new("why_failed", format!("the plan cannot be followed: {}", why.strip_backtrace()))
}

/// Builds a step after its inputs, with an eye on it.
fn watch(builder: &mut Builder<'_>, step: &Step, notes: &mut Notes, probe: &ProbeHandle<Tick>) -> Planned<()> {
    let noted: Rc<RefCell<Noted>> = Rc::default();
    notes.push(noted.clone());
    for input in &step.inputs {
        watch(builder, input, notes, probe)?;
    }
    let (rendered, faults) = builder.render_alone(&step.built)?;
    let (mut watcher, seen) = (Watcher::new(&step.built, &step.rows)?, noted.clone());
    tap(&rendered, &step.built, probe, move |passing| watcher.see(passing, &mut seen.borrow_mut().seen))?;
    let seen = noted.clone();
    let faults = faults.inner.inspect_container(move |event| {
        let Ok((_, faults)) = event else { return };
        faults.iter().for_each(|(row, _, diff): &(Row, Tick, Diff)| seen.borrow_mut().seen.fault(row, *diff));
    });
    faults.probe_with(probe);
    watch_inputs(builder, step, &noted, probe)
}

/// What some operators are asked beside the rows that come out of them.
fn watch_inputs(
    builder: &mut Builder<'_>,
    step: &Step,
    noted: &Rc<RefCell<Noted>>,
    probe: &ProbeHandle<Tick>,
) -> Planned<()> {
    match (&step.built.op, step.inputs.as_slice()) {
        (Op::Map { filter: Some(filter), .. }, [input]) => {
            noted.borrow_mut().checks = Check::all(filter);
            let (mut watcher, noted) = (Watcher::new(&input.built, &input.rows)?, noted.clone());
            tap(&builder.render(&input.built)?, &input.built, probe, move |passing| {
                let (rows, at) = watcher.chosen(passing)?;
                noted.borrow_mut().checks.iter_mut().try_for_each(|check| check.see((&rows, &at)))
            })
        }
        (Op::Join(join), inputs) => {
            for (side, input) in inputs.iter().enumerate() {
                let (keys, noted) = (Keys::new(join, side == 1)?, noted.clone());
                tap(&builder.render(&input.built)?, &input.built, probe, move |passing| {
                    keys.see(passing, &mut noted.borrow_mut().partners[side])
                })?;
            }
            Ok(())
        }
        (Op::TopK { .. }, [input]) => {
            let (codec, noted) = (Codec::new(input.built.schema.clone())?, noted.clone());
            tap(&builder.render(&input.built)?, &input.built, probe, move |passing| {
                noted.borrow_mut().contenders.see(passing, &codec)
            })
        }
        _ => Ok(()),
    }
}

/// Shows all rows of a node as they pass.
fn tap(
    rendered: &Rendered<'_>,
    node: &Node,
    probe: &ProbeHandle<Tick>,
    mut see: impl FnMut(Passing<'_>) -> Planned<()> + 'static,
) -> Planned<()> {
    match rendered.clone() {
        Rendered::Events(events) => {
            let own: Vec<usize> = (0..node.schema.fields().len()).collect();
            let seen = events.inspect_container(move |event| {
                let Ok((_, Batch(Some(rows)))) = event else { return };
                let ticks: &UInt64Array = crate::render::ticks(rows);
                let at: Vec<(Tick, Diff)> = ticks.values().iter().map(|tick| (*tick, 1)).collect();
                let rows: RecordBatch = rows.project(&own).expect("columns of the plan");
                see((&rows, &at)).expect("columns of the plan");
            });
            seen.probe_with(probe);
        }
        Rendered::Table(table) => {
            let codec = Codec::new(node.schema.clone())?;
            let seen = table.inner.inspect_container(move |event| {
                let Ok((_, updates)) = event else { return };
                let mut updates: Updates = updates.clone();
                differential_dataflow::consolidation::consolidate_updates(&mut updates);
                updates.sort_by_key(|(_, tick, _)| *tick);
                let rows = codec.decode(updates.iter().map(|(row, ..)| row)).expect("rows of the plan");
                let at: Vec<(Tick, Diff)> = updates.iter().map(|(_, tick, diff)| (*tick, *diff)).collect();
                see((&rows, &at)).expect("columns of the plan");
            });
            seen.probe_with(probe);
        }
    }
    Ok(())
}
