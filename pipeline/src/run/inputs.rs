//! Where the process's records come from: the embedded log, which it opens and may simulate vehicles into, or Kafka.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use operators::record::Stream;
use operators::record::declared::Declared;
use operators::time::Tick;
use sources::SourceError;
use sources::delivery::{Capacity, Sender};
use sources::listen::Gate;
use sources::log::{EmbeddedLog, system_clock};
use sources::publish::{KafkaPublisher, Publish, feed};
use sources::simulator::Simulator;
use tracing::{info, warn};

use super::settings;
use crate::checkpoint::{LogIdentity, Topic};
use crate::config::Config;
use crate::job::Origin;
use crate::origin::{Embedded, From, Kafka};
use crate::replay::{Replay, SLACK_MS};

/// Of the log that is read again: rows of a batch, how far a partition may be ahead in milliseconds, rows that wait, and bytes that
/// are fetched before. Less than for what is live, which it is not to hold up.
const BATCH_ROWS_MAX: usize = 1_000;
const AHEAD_MS_MAX: u64 = 1_000;
const CHANNEL_ROWS_MAX: usize = 20_000;
const PREFETCH_BYTES_MAX: usize = 4 << 20;
/// Longest pause between attempts to reach the cluster at the start.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);

/// By topic and partition the first offset and the one after the last record.
type Ranges = BTreeMap<(String, i32), (i64, i64)>;

/// The inputs of the process.
pub struct Inputs {
    log: Option<Arc<EmbeddedLog>>,
    /// Sources and tables over topics beside those of the main job.
    declared: Vec<&'static Declared>,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
    simulation: Option<JoinHandle<()>>,
}

/// Either log, as the job reads it.
pub enum AnyOrigin {
    /// Ours.
    Embedded(Embedded),
    /// Kafka.
    Kafka(Kafka),
}

impl Origin for AnyOrigin {
    fn read(&self, worker: usize, workers: usize, outlet: Sender, stop: Arc<AtomicBool>) -> Result<(), SourceError> {
        match self {
            AnyOrigin::Embedded(origin) => origin.read(worker, workers, outlet, stop),
            AnyOrigin::Kafka(origin) => origin.read(worker, workers, outlet, stop),
        }
    }
}

impl Inputs {
    /// Opens the embedded log and makes its topics, if the process uses it.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn open(config: &Config, declared: Vec<&'static Declared>) -> Result<Self, String> {
        let log = if super::reads_kafka(config) { None } else { Some(Arc::new(open_log(config, &declared)?)) };
        Ok(Self { log, declared, stop: Arc::default(), failure: Arc::default(), simulation: None })
    }

    /// The topic of each stream that is read.
    pub fn topics(&self, config: &Config) -> Vec<(Stream, String)> {
        let declared = self.declared.iter().map(|declared| Stream::Declared(declared));
        Stream::ALL.into_iter().chain(declared).map(|stream| (stream, config.topics.of(stream).to_owned())).collect()
    }

    /// Which log it is, and by topic and partition its first offset and the one after its last. Waits for a cluster that is away.
    ///
    /// # Errors
    /// It does not tell.
    pub async fn identity(&self, config: &Config) -> Result<(LogIdentity, Ranges), String> {
        let topics: Vec<String> = self.topics(config).into_iter().map(|(_, topic)| topic).collect();
        let named = |name: &String| Topic { name: name.clone(), id: String::new() };
        let (cluster, ranges) = match &self.log {
            Some(log) => {
                let mut ranges = Ranges::new();
                for (topic, partitions) in log.topics().into_iter().filter(|(topic, _)| topics.contains(topic)) {
                    for partition in 0..partitions {
                        let offsets = log.offsets(&topic, partition).map_err(|why| why.to_string())?;
                        ranges.insert((topic.clone(), partition), offsets);
                    }
                }
                (log.identity().to_owned(), ranges)
            }
            None => self.ask_kafka(config, &topics).await?,
        };
        Ok((LogIdentity { cluster, topics: topics.iter().map(named).collect() }, ranges))
    }

    async fn ask_kafka(&self, config: &Config, topics: &[String]) -> Result<(String, Ranges), String> {
        let mut pause = Duration::from_millis(100);
        loop {
            let (connection, topics) = (config.kafka.clone(), topics.to_vec());
            let asked = tokio::task::spawn_blocking(move || sources::kafka::identity(&connection, &topics)).await;
            match asked.map_err(|why| why.to_string())? {
                Ok(identity) => return Ok((identity.cluster, identity.ranges)),
                Err(why @ SourceError::Unavailable { .. }) => {
                    warn!(%why, retry_ms = pause.as_millis() as u64, "Kafka is away: what it has is not known yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ASK_AGAIN_MAX);
                }
                Err(why) => return Err(why.to_string()),
            }
        }
    }

    /// What the job reads from there on.
    pub fn origin(&self, config: &Config, from: From) -> AnyOrigin {
        let topics = self.topics(config).into_iter().map(|(stream, topic)| (stream, topic.into())).collect();
        let options = settings::reader(config);
        match &self.log {
            Some(log) => AnyOrigin::Embedded(Embedded { log: log.clone(), topics, options, from, until: None }),
            None => AnyOrigin::Kafka(Kafka { connection: config.kafka.clone(), topics, options, from, bounded: false }),
        }
    }

    /// The same records again, for streams that come later.
    pub fn replay(&self, config: &Config) -> Replay<AnyOrigin> {
        let mut again = config.clone();
        // Lag tools show the group of the running dataflow.
        again.kafka.group = format!("{}-history", config.kafka.group);
        again.kafka.prefetch_bytes_max = config.kafka.prefetch_bytes_max.min(PREFETCH_BYTES_MAX);
        (again.time.slack_ms_min, again.time.slack_ms_max) = (SLACK_MS, SLACK_MS);
        again.reader.batch_rows_max = config.reader.batch_rows_max.min(BATCH_ROWS_MAX);
        again.reader.ahead_ms_max = config.reader.ahead_ms_max.min(AHEAD_MS_MAX);
        let settings = settings::job(config);
        Replay {
            origin: Arc::new(self.origin(&again, From::default())),
            topology: settings.topology,
            capacity: Capacity { rows_max: CHANNEL_ROWS_MAX, ..settings.capacity },
            rows_per_s: config.sql.build_rows_per_s,
            declared: self.declared.clone(),
        }
    }

    /// Starts the simulated vehicles, if they are wanted. A log that has vehicles from an earlier run is simulated on.
    ///
    /// # Errors
    /// The options make no fleet, or no thread can be started.
    pub fn simulate(&mut self, config: &Config) -> Result<(), String> {
        let Some(log) = self.log.clone().filter(|_| config.simulator.enabled) else { return Ok(()) };
        let clock = system_clock();
        let mut simulator =
            Simulator::new(settings::simulator(config), clock() as i64).map_err(|why| why.to_string())?;
        let topics = config.topics.clone();
        let (stop, failure) = (self.stop.clone(), self.failure.clone());
        info!(vehicles = config.simulator.vehicles, rate_per_s = config.simulator.rate_per_s, "simulating");
        let work = move || {
            let topic = |stream: Stream| Some(topics.of(stream).to_owned());
            if let Err(why) = feed(&mut simulator, &log, topic, &settings::feed(), &clock, &stop) {
                warn!(%why, "the simulation has ended");
                let why = format!("the log refuses simulated records: {why}");
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            }
        };
        let thread = std::thread::Builder::new().name("simulator".into()).spawn(work);
        self.simulation = Some(thread.map_err(|why| format!("cannot start the simulator's thread: {why}"))?);
        Ok(())
    }

    /// The gate that takes records in over HTTP.
    ///
    /// # Errors
    /// The producer cannot be made.
    pub fn gate(&self, config: &Config) -> Result<Arc<Gate>, String> {
        let log: Arc<dyn Publish> = match &self.log {
            Some(log) => log.clone(),
            None => {
                let producer = KafkaPublisher::new(&config.kafka, config.ingest.gate.ack_ms_max);
                Arc::new(producer.map_err(|why| why.to_string())?)
            }
        };
        let (topic, options) = (config.topics.telemetry.clone(), config.ingest.gate.clone());
        Ok(Gate::new(log, topic, self.declared.clone(), options, system_clock()))
    }

    /// Whether the log is the process's own.
    pub fn is_embedded(&self) -> bool {
        self.log.is_some()
    }

    /// What went wrong beside the job, if something did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the dataflow is behind the log, in milliseconds.
    pub fn behind_ms(&self, frontier: Tick) -> u64 {
        let now = self.log.as_ref().map_or_else(|| system_clock()(), |log| log.complete_until_ms());
        now.saturating_sub(frontier)
    }

    /// Takes no more records in.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(simulation) = self.simulation.take() {
            // A panic there has ended the process already.
            let _ = simulation.join();
        }
    }
}

/// Opens the embedded log and makes its topics, and those of these sources and tables.
///
/// # Errors
/// The log cannot be opened: another process has it, or its files are damaged.
pub fn open_log(config: &Config, declared: &[&'static Declared]) -> Result<EmbeddedLog, String> {
    let log = EmbeddedLog::open(settings::log(config), system_clock()).map_err(|why| why.to_string())?;
    let declared = declared.iter().map(|declared| Stream::Declared(declared));
    for stream in Stream::ALL.into_iter().chain(declared) {
        let wanted = if stream.is_table() { config.log.reference_partitions } else { config.log.partitions };
        let topic = config.topics.of(stream);
        let has = log.topics().iter().find(|(name, _)| name == topic).map_or(0, |(_, partitions)| *partitions);
        log.create_topic(topic, wanted.max(has)).map_err(|why| why.to_string())?;
    }
    Ok(log)
}
