//! Several steps of the Kafka sink under way at once. These tests would catch records lost, doubled or out of order when the
//! broker goes away, refuses one of them, or takes no more while a step is handed over.

use std::ops::Range;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::json;
use sinks::kafka::KafkaSink;
use sinks::run::{self, Route};
use sinks::{Rows, Sink, Step};
use tokio::time::timeout;

use crate::kafka_sink::{DEADLINE, check, connection, feeding, message, messages, options, read, step_of};
use crate::kafka_sink::{sink, telemetry_topic};
use crate::rows::batch;
use crate::services::{self, Kafka, unique, wait_until};
use operators::connection;
use operators::record::output;
use operators::time::Tick;

const FLIGHTS: i64 = KafkaSink::FLIGHTS_MAX as i64;

fn flight(number: i64) -> [Step; 1] {
    [step_of(number * 500, 500, number as Tick * 10)]
}

/// Lands these flights, or those that do not land are applied, as the runner does.
async fn finish(sink: &mut KafkaSink, flights: Range<i64>, mut fallen: bool) {
    for number in flights {
        fallen = fallen || sink.landed().await.is_err();
        while fallen && sink.apply_all(&flight(number)).await.is_err() {}
    }
}

#[tokio::test]
async fn flights_outlive_a_killed_broker() {
    let mut broker = Kafka::private("");
    let topic = broker.topic("flights", 4);
    let mut sink = sink(&broker, vec![telemetry_topic(&topic)]).await;
    // It goes while steps come one after the other: some are written and acknowledged, some are written and not.
    for number in 0..50 {
        if number >= FLIGHTS {
            sink.landed().await.expect("landed");
        }
        sink.launch(&flight(number)).await.expect("launched");
    }
    broker.server.kill9();
    let (mut next, mut fallen) = (50 - FLIGHTS, false);
    // Waits that are cut off, as by rows that come. One that fails is the last: that flight and those after it are applied.
    while next < 50 && !fallen {
        match timeout(Duration::from_millis(100), sink.landed()).await {
            Ok(Ok(())) => next += 1,
            Ok(Err(_)) => fallen = true,
            Err(_) => break,
        }
    }
    broker.server.start();
    finish(&mut sink, next..50, fallen).await;
    // It goes with as many under way as there can be, none of them acknowledged.
    broker.server.pause();
    for number in 50..50 + FLIGHTS {
        sink.launch(&flight(number)).await.expect("launched");
    }
    let early = timeout(Duration::from_millis(100), sink.landed()).await;
    assert!(early.is_err(), "the broker is away, and yet: {early:?}");
    let error = sink.landed().await.expect_err("the broker is away");
    assert!(error.to_string().contains("none acknowledged for 2000 ms"), "{error}");
    broker.server.kill9();
    broker.server.start();
    for number in 50..50 + FLIGHTS {
        sink.apply_all(&flight(number)).await.expect("applied");
    }
    check(&read(&broker, &topic), (50 + FLIGHTS) * 500);
}

#[tokio::test]
async fn a_launch_that_is_cut_off_goes_on_where_it_was() {
    let mut broker = Kafka::private("");
    let topic = broker.topic("full", 4);
    let small = connection::Kafka { produce_bytes_max: 1 << 20, ..connection(&broker) };
    let mut sink = KafkaSink::new(small, options(), vec![telemetry_topic(&topic)], None);
    sink.open().await.expect("the topic is there");
    broker.server.pause();
    let steps = [[step_of(0, 1_000, 10)], [step_of(1_000, 20_000, 20)]];
    sink.launch(&steps[0]).await.expect("there is room");
    assert!(timeout(Duration::from_millis(300), sink.launch(&steps[1])).await.is_err(), "there is no room");
    broker.server.resume();
    for step in &steps {
        sink.apply_all(step).await.expect("applied");
    }
    sink.launch(&[step_of(21_000, 1_000, 30)]).await.expect("launched");
    sink.landed().await.expect("landed");
    check(&read(&broker, &topic), 22_000);
}

/// Through the runner: steps go on being launched behind one with a record that the broker refuses, until it takes that.
#[test]
fn nothing_overtakes_a_refused_record() {
    let broker = services::kafka();
    let topic = unique("refused");
    broker.create_topic(&topic, 4, &[("max.message.bytes", "20000")]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (tell, mut fatal) = tokio::sync::mpsc::channel(1);
    let _inside = runtime.enter();
    let sink = KafkaSink::new(connection(broker), options(), vec![telemetry_topic(&topic)], None);
    let fed = run::Options { retry_ms_max: 200, ..feeding() };
    let route = Route { stream: "telemetry_enriched", keys: &[] };
    let (feed, running) = run::start(sink, fed, vec![route], 1, 0, tell);
    let mut sent = 0;
    let mut send = |large: bool| {
        let tick = sent as Tick + 1;
        let mut rows: Vec<_> = (sent..sent + 50).map(|seq| message(seq, tick)).collect();
        if large {
            rows[7]["plate"] = json!("p".repeat(30_000));
        }
        sent += 50;
        feed.push("telemetry_enriched", 0, Rows::Append(batch(output::enriched(), &rows)));
        feed.close("telemetry_enriched", 0, tick + 1);
        sent
    };
    for _ in 0..50 {
        send(false);
        wait_until(DEADLINE, "some is written", || feed.queued_rows() < 200);
    }
    send(true);
    // A step every two milliseconds: some of them are with the broker when it refuses the large one.
    let refused = loop {
        let refused = runtime.block_on(async { timeout(Duration::from_millis(2), fatal.recv()).await });
        match refused {
            Ok(refused) => break refused.expect("a report"),
            Err(_) => assert!(send(false) < 100_000, "nothing is refused"),
        }
    };
    assert!(refused.error.to_string().contains("max.message.bytes"), "{}", refused.error);
    let admin: AdminClient<DefaultClientContext> = broker.client().create().expect("a client");
    let wider = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "1000000");
    let altered = runtime.block_on(admin.alter_configs([&wider], &AdminOptions::new())).expect("altered");
    altered[0].as_ref().expect("altered");
    let mut count = 0;
    for _ in 0..20 {
        count = send(false);
    }
    wait_until(DEADLINE, "everything is written", || feed.queued_rows() == 0);
    assert_eq!(runtime.block_on(running.drain(DEADLINE)), 0);
    check(&read(broker, &topic), count);
}

/// Through the runner, with the broker stopped, killed and back again in the middle: within one life of the process not even
/// a record is doubled.
#[test]
fn a_killed_broker_loses_and_doubles_nothing() {
    let mut broker = Kafka::private("");
    let topic = broker.topic("killed", 4);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (tell, mut fatal) = tokio::sync::mpsc::channel(1);
    let _inside = runtime.enter();
    let sink = KafkaSink::new(connection(&broker), options(), vec![telemetry_topic(&topic)], None);
    let route = Route { stream: "telemetry_enriched", keys: &[] };
    let (feed, running) = run::start(sink, feeding(), vec![route], 1, 0, tell);
    let batches = 400;
    for number in 0..batches {
        match number {
            // Whatever is launched from here on stays under way.
            130 => {
                wait_until(DEADLINE, "some of it is written", || feed.durable("telemetry_enriched", 0) > 300);
                broker.server.pause();
            }
            150 => broker.server.kill9(),
            300 => broker.server.start(),
            _ => {}
        }
        let tick = 10 * (number as Tick + 1);
        feed.push("telemetry_enriched", 0, Rows::Append(messages(number * 100, 100, tick)));
        feed.close("telemetry_enriched", 0, tick + 1);
    }
    wait_until(DEADLINE, "everything is written", || feed.queued_rows() == 0);
    assert_eq!(runtime.block_on(running.drain(DEADLINE)), 0);
    assert!(fatal.try_recv().is_err(), "a broker that is away is no reason to give up");
    check(&read(&broker, &topic), batches * 100);
}
