//! A worker's part: does what is commanded between two rounds of its dataflows.
//!
//! Invariant: a dataflow of a derived stream is built and taken down whole; what it shared with others stays theirs.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use differential_dataflow::VecCollection;
use operators::record::declared::Declared;
use operators::row::{Diff, Row};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder, TimelyLogger};
use timely::logging_core::Logger;
use timely::worker::Worker;

use super::command::{Command, Commands, Install};
use super::export::{Exit, exit_events};
use super::feed::Taps;
use super::keep::{Held, Keeper};
use super::port::{Port, Ports, Queue};
use super::subscribe::subscribe;
use crate::catalog::{CORE, Core, seen};
use crate::plan::{Kind, Op};
use crate::render::{Builder, Rendered, Usage};

/// How often streams' time is told.
const TELL: Duration = Duration::from_millis(50);

/// The derived streams of one worker.
pub struct Live {
    index: usize,
    ports: Ports,
    keeper: Keeper,
    commands: Arc<Commands>,
    bases: Arc<BTreeMap<String, Arc<Held>>>,
    declared: Arc<[&'static Declared]>,
    dataflows: HashMap<String, (usize, TimelyLogger)>,
    /// When streams' time was told last.
    told: Instant,
    /// Streams that wait for all workers to have their beginning.
    starting: Vec<Arc<Install>>,
    /// Streams that are built from the log, and what they are to follow then.
    building: Vec<(Arc<Install>, Vec<(String, Rc<Queue>)>)>,
}

impl Live {
    pub(super) fn new(
        index: usize,
        keeper: Keeper,
        commands: Arc<Commands>,
        bases: Arc<BTreeMap<String, Arc<Held>>>,
        declared: Arc<[&'static Declared]>,
    ) -> Self {
        commands.join(std::thread::current());
        Self {
            index,
            ports: Ports::default(),
            keeper,
            commands,
            bases,
            declared,
            dataflows: HashMap::new(),
            told: Instant::now(),
            starting: Vec::new(),
            building: Vec::new(),
        }
    }

    /// For a dataflow that reads the past: it has those of these streams and tables, of the main job and declared, that are
    /// named, keeps none, and obeys nobody.
    #[must_use]
    pub fn of_the_past(names: &[String], declared: &[&'static Declared]) -> Self {
        let named = |wanted: &str| names.iter().any(|name| name == wanted);
        let core = CORE.iter().filter(|core| named(core.name));
        let held = |core: &Core| (core.name.to_owned(), Held::not_kept(core.name, core.seen().0, core.kind));
        let declared: Arc<[&Declared]> = declared.iter().copied().filter(|declared| named(&declared.name)).collect();
        let own = |declared: &&'static Declared| {
            let kind = if declared.table { Kind::Table } else { Kind::Events };
            (declared.name.clone(), Held::not_kept(&declared.name, seen(declared).0, kind))
        };
        let bases = Arc::new(core.map(held).chain(declared.iter().map(own)).collect());
        Self::new(0, Keeper::default(), Arc::new(Commands::new(1)), bases, declared)
    }

    /// The sources and tables that are declared over topics.
    #[must_use]
    pub fn declared(&self) -> &[&'static Declared] {
        &self.declared
    }

    /// Whether it takes this stream or table of the main job.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.bases.contains_key(name)
    }

    /// Ends of all its streams, once they are there.
    #[must_use]
    pub fn taps(&self) -> Taps {
        let queue = |name: &String| Some((name.clone(), self.ports.get(name)?.subscribe().0));
        Taps(self.bases.keys().filter_map(queue).collect())
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(super) fn base(&self, name: &str) -> Option<Arc<Held>> {
        self.bases.get(name).cloned()
    }

    /// Does what was commanded since the last call; says whether there was anything.
    pub fn obey(&mut self, worker: &mut Worker) -> bool {
        let commands = self.commands.take(self.index);
        let any = !commands.is_empty() || !self.starting.is_empty();
        for command in commands {
            match command {
                Command::Install(install) => self.install(worker, &install),
                Command::Follow(port) => self.follow(&port),
                Command::Drop(port) => self.drop_stream(worker, &port),
            }
        }
        if self.told.elapsed() >= TELL {
            self.dataflows.values().for_each(|(_, clock)| clock.flush());
            self.told = Instant::now();
        }
        // A subscription that nothing arrives at has to be woken when it may begin.
        let ports = self.ports.clone();
        self.starting.retain(|install| {
            let begun = install.start.begun().is_some();
            if begun {
                reads(install).iter().filter_map(|(name, _)| ports.get(name)).for_each(|port| port.nudge());
            }
            !begun
        });
        self.feed() || any
    }

    /// Wakes what has something of the past to take; says whether anything has.
    fn feed(&mut self) -> bool {
        let (mut any, index) = (false, self.index);
        self.building.retain(|(install, queues)| {
            let begun = install.start.begun().is_some();
            if begun || install.past.as_ref().is_some_and(|feed| feed.has_news(index)) {
                any = true;
                queues.iter().filter_map(|(_, queue)| queue.activator.borrow().clone()).for_each(|one| one.activate());
            }
            !begun
        });
        any
    }

    /// Lets a stream that is built from the log have what is live as well.
    fn follow(&mut self, port: &str) {
        for (install, queues) in self.building.iter().filter(|(install, _)| install.port == port) {
            let attach = |(name, queue): &(String, Rc<Queue>)| self.ports.get(name).map(|port| port.attach(queue));
            install.start.report(queues.iter().filter_map(attach).max().unwrap_or(0));
        }
    }

    fn install(&mut self, worker: &mut Worker, install: &Arc<Install>) {
        let mut whole_from = 0;
        let mut queues = Vec::new();
        for (name, kind) in reads(install) {
            let Some(port) = self.ports.get(&name) else {
                tracing::error!(stream = install.port, input = name, "an input is not there");
                return;
            };
            let queue = if install.past.is_some() {
                Rc::default()
            } else {
                let (queue, from) = port.subscribe();
                whole_from = whole_from.max(from);
                queue
            };
            queues.push((name, kind, queue));
        }
        if install.past.is_some() {
            let queues = queues.iter().map(|(name, _, queue)| (name.clone(), queue.clone())).collect();
            self.building.push((install.clone(), queues));
        }
        let port = self.ports.open(&install.port);
        let index = worker.next_dataflow_index();
        let exit = |held: &Arc<Held>, port: Rc<Port>| Exit {
            port,
            held: held.clone(),
            keeper: self.keeper.clone(),
            worker: self.index,
            told: 0,
        };
        let (rows, faults) = (exit(&install.rows, port), exit(&install.faults, Rc::default()));
        let clock = clock(install.usage.clone(), self.index);
        worker.dataflow_core::<Tick, _, _, _>(&install.port, Some(clock.clone()), (), |(), scope| {
            let mut inputs = HashMap::new();
            for (name, kind, queue) in queues {
                let stream = subscribe(scope, name.clone(), kind, queue, install.clone());
                inputs.insert(name, stream);
            }
            let mut builder = Builder::measured(scope, inputs, install.usage.clone());
            match builder.render(&install.node).expect("the catalog has built it once") {
                Rendered::Events(events) => drop(exit_events(events, rows)),
                Rendered::Table(table) => exit_table(table, rows),
            }
            exit_table(builder.faults(), faults);
        });
        self.dataflows.insert(install.port.clone(), (index, clock));
        if install.start.begun().is_none() && install.past.is_none() {
            install.start.report(whole_from);
            self.starting.push(install.clone());
        }
    }

    fn drop_stream(&mut self, worker: &mut Worker, port: &str) {
        self.ports.close(port);
        self.starting.retain(|install| install.port != port);
        self.building.retain(|(install, _)| install.port != port);
        if let Some((index, _)) = self.dataflows.remove(port) {
            worker.drop_dataflow(index);
        }
    }
}

/// Adds up how long a worker works for a stream: from each beginning of its dataflow to the end.
fn clock(usage: Arc<Usage>, worker: usize) -> TimelyLogger {
    let mut begun: Option<Duration> = None;
    let logger = Logger::<TimelyEventBuilder>::new(Instant::now(), Duration::ZERO, move |_, events| {
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            let TimelyEvent::Schedule(event) = event else { continue };
            match event.start_stop {
                StartStop::Start => begun = Some(at),
                StartStop::Stop => {
                    let worked = begun.take().map_or(Duration::ZERO, |begun| at.saturating_sub(begun));
                    usage.worked(worker, worked.as_nanos() as u64);
                }
            }
        }
    });
    logger.into_typed()
}

/// What a stream reads: names of ports, and what comes through them.
pub(super) fn reads(install: &Install) -> Vec<(String, Kind)> {
    let mut reads = BTreeMap::new();
    install.node.visit(&mut |node| {
        if let Op::Get(name) = &node.op {
            reads.insert(name.clone(), node.kind);
        }
    });
    reads.into_iter().collect()
}

/// Hands a table's changes over.
fn exit_table(table: VecCollection<'_, Tick, Row, Diff>, mut exit: Exit) {
    type Out = CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>;
    table.inner.unary_frontier::<Out, _, _, _>(Pipeline, "ExitTable", move |_, _| {
        move |(input, frontier), _output| {
            input.for_each(|_, updates| exit.put(std::mem::take(updates)));
            exit.follow(frontier.frontier());
        }
    });
}
