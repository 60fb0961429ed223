//! `haulstream simulate`: simulated vehicles or recorded journeys, sent to Kafka, a gate or the embedded log.
//!
//! Invariant: what is counted as published was acknowledged; the counts of what was made are the generator's own.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use operators::record::Stream;
use serde_json::{Value, json};
use sources::SourceError;
use sources::log::system_clock;
use sources::publish::{HttpCounts, HttpOptions, HttpPublisher, KafkaPublisher, Message, Publish, Timetable, feed};
use sources::simulator::{self, Simulator};
use sources::trace::{Columns, PlayOptions, Player, Trace, TraceOptions};

use super::{ConfigFile, Failure, asked_to_stop, block_on, print};
use crate::config::{Config, Override};
use crate::run::{open_log, settings};

/// How often the terminal is told how far it is.
const PROGRESS: Duration = Duration::from_secs(1);
/// Refused rows of a trace that are shown.
const REFUSED_SHOWN: usize = 5;

/// What `simulate` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Where records are sent to. A gate takes telemetry only, the logs take the references as well.
    #[arg(long, value_enum)]
    to: Target,
    #[command(flatten)]
    file: ConfigFile,
    /// With `--to log`: the data directory; goes before the file's `run.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// With `--to http`: the gate.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Send telemetry only, no vehicles, drivers, companies and tariffs.
    #[arg(long)]
    no_references: bool,
    /// Stop after so many seconds.
    #[arg(long, value_name = "S")]
    duration: Option<u64>,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    recorded: Recorded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The configured Kafka.
    Kafka,
    /// An ingestion gate.
    Http,
    /// The embedded log of the data directory, which no other process may have open.
    Log,
}

#[derive(Args, Clone, Debug)]
struct Fleet {
    /// Number of vehicles, 1 to 1,000,000; each has a tracker and a driver.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    vehicles: u32,
    /// Messages a second of all vehicles together; 0 for as fast as they are taken.
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    rate: f64,
    /// The same seed gives the same fleet and the same journeys.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Stop after so many messages; 0 for never.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
    /// Countries in which the vehicles stay, as ISO 3166 codes separated by commas; all of Europe without.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    countries: Vec<String>,
    /// Per cent of messages that arrive late, behind newer ones.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    late_pct: f64,
    /// How late they are at most, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    late_ms_max: u64,
    /// Per cent of messages that arrive twice.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    duplicate_pct: f64,
    /// Per cent of messages that are garbage.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    garbage_pct: f64,
    /// Per cent of messages that change places with the vehicle's next one.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    out_of_order_pct: f64,
    /// Per cent of vehicles that lose their link for minutes, and send what they kept afterwards.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    lost_link_pct: f64,
    /// Per cent of trackers whose clock is wrong.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    wrong_clock_pct: f64,
    /// Per cent of vehicles that stand all the time with the engine on.
    #[arg(long, value_name = "PCT", default_value_t = 0.0)]
    stuck_pct: f64,
    /// Changes of reference records a second.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    changes_per_s: f64,
}

#[derive(Args, Clone, Debug)]
struct Recorded {
    /// Play this recorded journey (.csv or .gpx) instead of simulated vehicles; may be given several times.
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// How many times faster than recorded; 0 for as fast as the messages are taken.
    #[arg(long, value_name = "N", default_value_t = 1.0, requires = "trace")]
    speed: f64,
    /// Keep the recorded times; without it the journey happens now.
    #[arg(long, requires = "trace")]
    keep_times: bool,
    /// Put before each device id.
    #[arg(long, value_name = "TEXT", default_value = "", requires = "trace")]
    device_prefix: String,
    /// Names of the CSV columns that differ from device, time, lat, lon, heading, speed: `device=vehicle_id,heading=`
    /// (empty: there is none).
    #[arg(long, value_name = "NAME=COLUMN,…", value_delimiter = ',', requires = "trace")]
    columns: Vec<String>,
    /// CSV columns that become attributes of the messages.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', requires = "trace")]
    attributes: Vec<String>,
}

/// Sends until everything is sent, the time is over or the process is asked to stop.
///
/// # Errors
/// A wrong configuration or flag, or why the target does not take the records.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let data = Override::text("--data", "run.data", arguments.data.as_deref());
    let config = arguments.file.load([data])?.config;
    let now_ms = system_clock()() as i64;
    block_on(&config, async {
        if arguments.recorded.trace.is_empty() {
            let options = fleet(&arguments.fleet, arguments.to);
            let made = Simulator::new(options, now_ms).map_err(source)?;
            let (made, sent) = send(arguments, &config, made).await?;
            print_counts(arguments.to, &sent, counts(made.counts()))
        } else {
            let trace = trace(&arguments.recorded)?;
            let about = about(&trace);
            let play = PlayOptions { speed: arguments.recorded.speed, shift_to_now: !arguments.recorded.keep_times };
            let player = Player::new(trace, &play, now_ms).map_err(source)?;
            let (_, sent) = send(arguments, &config, player).await?;
            print_counts(arguments.to, &sent, about)
        }
    })
}

/// What a source is not content with is on the command line, or in the files that it names.
fn source(why: SourceError) -> Failure {
    match why {
        SourceError::Configuration(why) => Failure::Usage(why),
        other => Failure::Runtime(other.to_string()),
    }
}

fn fleet(flags: &Fleet, to: Target) -> simulator::Options {
    let flags = flags.clone();
    simulator::Options {
        vehicles: flags.vehicles,
        rate_per_s: flags.rate,
        interval_ms: 1_000,
        messages_max: flags.count,
        seed: flags.seed,
        countries: flags.countries,
        late_pct: flags.late_pct,
        late_ms_max: flags.late_ms_max,
        duplicate_pct: flags.duplicate_pct,
        garbage_pct: flags.garbage_pct,
        out_of_order_pct: flags.out_of_order_pct,
        lost_link_pct: flags.lost_link_pct,
        wrong_clock_pct: flags.wrong_clock_pct,
        stuck_pct: flags.stuck_pct,
        changes_per_s: flags.changes_per_s,
        // A gate adds it itself.
        stamp_server_time: to != Target::Http,
    }
}

fn trace(flags: &Recorded) -> Result<Trace, Failure> {
    let mut columns = Columns {
        device: "device".to_owned(),
        time: "time".to_owned(),
        lat: "lat".to_owned(),
        lon: "lon".to_owned(),
        heading: "heading".to_owned(),
        speed: "speed".to_owned(),
        attributes: flags.attributes.clone(),
    };
    for column in &flags.columns {
        let wrong = || {
            let known = "device, time, lat, lon, heading, speed";
            Failure::Usage(format!("--columns {column}: write NAME=COLUMN, where NAME is one of {known}"))
        };
        let (name, column) = column.split_once('=').ok_or_else(wrong)?;
        let place = match name {
            "device" => &mut columns.device,
            "time" => &mut columns.time,
            "lat" => &mut columns.lat,
            "lon" => &mut columns.lon,
            "heading" => &mut columns.heading,
            "speed" => &mut columns.speed,
            _ => return Err(wrong()),
        };
        column.clone_into(place);
    }
    let options = TraceOptions { device_prefix: flags.device_prefix.clone(), columns };
    let mut all = Trace::default();
    for path in &flags.trace {
        all = all.merge(Trace::open(path, &options).map_err(source)?);
    }
    Ok(all)
}

/// How a timetable is followed from outside.
#[derive(Default)]
struct Followed {
    records: AtomicU64,
    stop: AtomicBool,
    ended: AtomicBool,
}

/// A timetable that tells how far it is.
struct Counting<T> {
    inner: T,
    followed: Arc<Followed>,
}

impl<T: Timetable> Timetable for Counting<T> {
    fn next_until(&mut self, until_ms: i64) -> Option<Message<'_>> {
        let next = self.inner.next_until(until_ms);
        if next.is_some() {
            self.followed.records.fetch_add(1, Ordering::Relaxed);
        }
        next
    }
    fn next_due_ms(&self) -> Option<i64> {
        self.inner.next_due_ms()
    }
    fn is_paced(&self) -> bool {
        self.inner.is_paced()
    }
}

/// What came of it.
struct Sent {
    elapsed: Duration,
    http: Option<Arc<HttpCounts>>,
}

async fn send<T: Timetable + Send + 'static>(
    arguments: &Arguments,
    config: &Config,
    made: T,
) -> Result<(T, Sent), Failure> {
    let (publisher, http) = publisher(arguments, config)?;
    let followed = Arc::new(Followed::default());
    let counting = Counting { inner: made, followed: followed.clone() };
    let references = arguments.to != Target::Http && !arguments.no_references;
    let topics = config.topics.clone();
    let topic = move |stream: Stream| (references || stream == Stream::Telemetry).then(|| topics.of(stream).to_owned());
    let begin = Instant::now();
    let (mut work, watched) = (counting, followed.clone());
    // Waits for acknowledgements, which a thread of the runtime must not.
    let mut feeding = tokio::task::spawn_blocking(move || {
        let fed = feed(&mut work, publisher.as_ref(), topic, &settings::feed(), &system_clock(), &watched.stop);
        (work.inner, fed)
    });
    let progress = tokio::spawn(show_progress(followed.clone(), begin));
    let over = arguments.duration.map_or(Duration::MAX, Duration::from_secs);
    let ended = tokio::select! {
        ended = &mut feeding => ended,
        asked = async { tokio::select! { asked = asked_to_stop() => asked, () = sleep(over) => Ok(()) } } => {
            followed.stop.store(true, Ordering::Relaxed);
            asked?;
            feeding.await
        }
    };
    followed.ended.store(true, Ordering::Relaxed);
    progress.abort();
    let (made, fed) = ended.map_err(|why| Failure::Runtime(format!("the sender ended abruptly: {why}")))?;
    fed.map_err(|why| Failure::Runtime(format!("after {} records: {why}", followed.records.load(Ordering::Relaxed))))?;
    Ok((made, Sent { elapsed: begin.elapsed(), http }))
}

/// `tokio::time::sleep` that takes [`Duration::MAX`] for ever.
async fn sleep(duration: Duration) {
    if duration == Duration::MAX { std::future::pending().await } else { tokio::time::sleep(duration).await }
}

type Publisher = (Box<dyn Publish>, Option<Arc<HttpCounts>>);

fn publisher(arguments: &Arguments, config: &Config) -> Result<Publisher, Failure> {
    Ok(match arguments.to {
        Target::Kafka => (Box::new(KafkaPublisher::new(&config.kafka, settings::ACK_MS_MAX).map_err(source)?), None),
        Target::Log => (Box::new(Arc::new(open_log(config, &[]).map_err(Failure::Runtime)?)), None),
        Target::Http => {
            let options = HttpOptions {
                url: arguments.url.clone(),
                items_max: 500,
                body_bytes_max: 1 << 20,
                queue_bytes_max: 8 << 20,
                request_ms_max: 30_000,
            };
            let runtime = tokio::runtime::Handle::current();
            let http = HttpPublisher::new(options, config.topics.telemetry.clone(), &runtime).map_err(source)?;
            let counts = http.counts();
            (Box::new(http), Some(counts))
        }
    })
}

/// Tells a terminal how far it is.
async fn show_progress(followed: Arc<Followed>, begin: Instant) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut tick = tokio::time::interval(PROGRESS);
    let mut before = 0;
    loop {
        tick.tick().await;
        let records = followed.records.load(Ordering::Relaxed);
        if followed.ended.load(Ordering::Relaxed) {
            return;
        }
        let (seconds, rate) = (begin.elapsed().as_secs(), records - before);
        let _ = writeln!(std::io::stderr(), "{seconds:>5} s  {records:>12} records  {rate:>9}/s");
        before = records;
    }
}

fn print_counts(to: Target, sent: &Sent, made: Value) -> Result<(), Failure> {
    let name = to.to_possible_value().map(|value| value.get_name().to_owned());
    let mut all = json!({ "to": name, "seconds": sent.elapsed.as_secs_f64() });
    if let Some(http) = &sent.http {
        all["http"] = json!({ "accepted": http.accepted(), "rejected": http.rejected() });
    }
    if let (Value::Object(all), Value::Object(made)) = (&mut all, made) {
        all.extend(made);
    }
    print(&format!("{all:#}\n"))
}

fn counts(counts: &simulator::Counts) -> Value {
    json!({
        "references": counts.references,
        "changes": counts.changes,
        "messages": counts.messages,
        "distinct": counts.distinct,
        "devices": counts.devices,
        "late": counts.late,
        "out_of_order": counts.out_of_order,
        "lost_link": counts.lost_link,
        "wrong_clock": counts.wrong_clock,
        "duplicates": counts.duplicates,
        "garbage": counts.garbage,
        "garbage_by_code": counts.garbage_by_code,
    })
}

fn about(trace: &Trace) -> Value {
    let (refused, first) = trace.refused();
    let first: Vec<String> = first.iter().take(REFUSED_SHOWN).map(|(row, why)| format!("row {row}: {why}")).collect();
    json!({
        "messages": trace.len(),
        "devices": trace.devices().len(),
        "refused_rows": refused,
        "first_refused": first,
    })
}
