//! Settings that are each good and cannot stand together.
//!
//! Invariant: a rule has a name, which the message shows, and is judged on values only: no file, no network.

use std::net::SocketAddr;

use super::options::Config;
use crate::run::{clickhouse_sink, redis_sink};

/// One rule.
pub struct Together {
    /// Its name, shown as the problem's code.
    pub name: &'static str,
    /// The options it looks at; the first of them that the user set is where the message points.
    pub keys: &'static [&'static str],
    /// What is wrong, if something is.
    pub broken: fn(&Config) -> Option<String>,
    /// What to do.
    pub help: &'static str,
}

/// All of them.
pub const RULES: &[Together] = &[
    Together {
        name: "slack_min_above_max",
        keys: &["time.slack_ms_min", "time.slack_ms_max"],
        broken: |c| above(("time.slack_ms_min", c.time.slack_ms_min), ("time.slack_ms_max", c.time.slack_ms_max)),
        help: "raise slack_ms_max or lower slack_ms_min",
    },
    Together {
        name: "tick_above_window",
        keys: &["time.tick_ms", "conflate.window_ms"],
        broken: |c| above(("time.tick_ms", c.time.tick_ms), ("conflate.window_ms", c.conflate.window_ms)),
        help: "changes are put together by whole ticks: lower tick_ms or raise window_ms",
    },
    Together {
        name: "tick_above_emit",
        keys: &["time.tick_ms", "window.emit_ms"],
        broken: |c| above(("time.tick_ms", c.time.tick_ms), ("window.emit_ms", c.window.emit_ms)),
        help: "windows are put out at ticks: lower tick_ms or raise emit_ms",
    },
    Together {
        name: "topic_used_twice",
        keys: &[
            "topics.enriched",
            "topics.offline",
            "topics.online",
            "topics.vehicle_state",
            "topics.tariff",
            "topics.company",
            "topics.driver",
            "topics.vehicle",
            "topics.dead_letters",
            "topics.telemetry",
        ],
        broken: topic_used_twice,
        help: "each stream needs a topic of its own: what is written to an input would be read again",
    },
    Together {
        name: "edge_reachable",
        keys: &["edge.listen", "edge.allow_remote"],
        broken: edge_reachable,
        help: "listen on 127.0.0.1; or set edge.allow_remote = true for the edge behind something that checks who comes",
    },
    Together {
        name: "edge_connections",
        keys: &["edge.connections_max", "edge.http_connections_max"],
        broken: |c| {
            let (sockets, all) = (c.edge.options.connections_max, c.edge.options.http_connections_max);
            above(("edge.connections_max", sockets as u64), ("edge.http_connections_max", all as u64))
        },
        help: "each WebSocket is a TCP connection: raise http_connections_max, with room for pages and snapshots",
    },
    Together {
        name: "reads_reachable",
        keys: &["reads.postgres_listen", "reads.password"],
        broken: reads_reachable,
        help: "listen on 127.0.0.1, or configure users in sections [users.NAME]; what is read goes over the network as it is",
    },
    Together {
        name: "body_above_held",
        keys: &["ingest.body_bytes_max", "ingest.held_bytes_max"],
        broken: |c| {
            let (body, held) = (c.ingest.gate.body_bytes_max, c.ingest.gate.held_bytes_max);
            above(("ingest.body_bytes_max", body as u64), ("ingest.held_bytes_max", held as u64))
        },
        help: "a body of the allowed size would be refused for ever: raise held_bytes_max or lower body_bytes_max",
    },
    Together {
        name: "live_retry",
        keys: &["sinks.live.retry_ms_min", "sinks.live.retry_ms_max"],
        broken: |c| retry("sinks.live", &c.sinks.live),
        help: "raise retry_ms_max or lower retry_ms_min",
    },
    Together {
        name: "history_retry",
        keys: &["sinks.history.retry_ms_min", "sinks.history.retry_ms_max"],
        broken: |c| retry("sinks.history", &c.sinks.history),
        help: "raise retry_ms_max or lower retry_ms_min",
    },
    Together {
        name: "live_step_above_queue",
        keys: &["sinks.live.bytes_max", "sinks.live.queue_bytes_max"],
        broken: |c| step("sinks.live", &c.sinks.live),
        help: "a step never grows larger than the queue: raise queue_bytes_max or lower bytes_max",
    },
    Together {
        name: "history_step_above_queue",
        keys: &["sinks.history.bytes_max", "sinks.history.queue_bytes_max"],
        broken: |c| step("sinks.history", &c.sinks.history),
        help: "a step never grows larger than the queue: raise queue_bytes_max or lower bytes_max",
    },
    Together {
        name: "record_above_producer",
        keys: &["kafka_sink.record_bytes_max", "kafka.produce_bytes_max"],
        broken: |c| {
            let (record, all) = (c.kafka_sink.options.record_bytes_max, c.kafka.produce_bytes_max);
            above(("kafka_sink.record_bytes_max", record as u64), ("kafka.produce_bytes_max", all as u64))
        },
        help: "the producer could never hold such a record: raise produce_bytes_max or lower record_bytes_max",
    },
    Together {
        name: "redis_unusable",
        keys: &["redis.url", "redis.prefix", "redis.password"],
        broken: |c| c.redis.enabled.then(|| redis_sink(c).err())?.map(|why| why.to_string()),
        help: "correct it, or set redis.enabled = false",
    },
    Together {
        name: "clickhouse_unusable",
        keys: &["clickhouse.url", "clickhouse.database"],
        broken: |c| c.clickhouse.enabled.then(|| clickhouse_sink(c).err())?.map(|why| why.to_string()),
        help: "correct it, or set clickhouse.enabled = false",
    },
];

/// What is wrong if the first value is above the second.
fn above((less, low): (&str, u64), (more, high): (&str, u64)) -> Option<String> {
    (low > high).then(|| format!("{less} = {low} is above {more} = {high}"))
}

fn retry(section: &str, fed: &sinks::run::Options) -> Option<String> {
    above(
        (&format!("{section}.retry_ms_min"), fed.retry_ms_min),
        (&format!("{section}.retry_ms_max"), fed.retry_ms_max),
    )
}

fn step(section: &str, fed: &sinks::run::Options) -> Option<String> {
    let (step, queue) = (format!("{section}.bytes_max"), format!("{section}.queue_bytes_max"));
    above((&step, fed.bytes_max as u64), (&queue, fed.queue_bytes_max as u64))
}

fn edge_reachable(c: &Config) -> Option<String> {
    // What is no address is told as such.
    let addr: SocketAddr = c.edge.listen.parse().ok()?;
    (!addr.ip().is_loopback() && !c.edge.options.allow_remote).then(|| {
        format!(
            "edge.listen = {addr} is reached by other machines, and the map has no rights yet: all would see all vehicles"
        )
    })
}

fn reads_reachable(c: &Config) -> Option<String> {
    // What is no address is told as such.
    let addr: SocketAddr = c.reads.postgres_listen.parse().ok()?;
    let asked = !c.users.is_empty() || !c.reads.wire.password.is_empty();
    let refused = queries::reads::wire::may_listen(addr, asked).err()?;
    Some(format!("reads.postgres_listen = {}", refused.message))
}

fn topic_used_twice(c: &Config) -> Option<String> {
    let all = c.topics.named();
    all.iter().enumerate().find_map(|(n, (key, topic))| {
        let (other, _) = all[..n].iter().find(|(_, earlier)| earlier == topic)?;
        Some(format!("{other} and {key} are both \"{topic}\""))
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::options::Source;
    use super::super::schema;
    use super::*;

    #[test]
    fn the_defaults_break_no_rule_and_rules_look_at_options_that_exist() {
        let config = Config::deserialize(schema::defaults()).expect("a whole configuration");
        assert_eq!(config.run.source, Source::Log);
        for rule in RULES {
            assert_eq!((rule.broken)(&config), None, "{}", rule.name);
            for key in rule.keys {
                assert!(schema::entry(key).is_some(), "{}: no option {key}", rule.name);
            }
        }
    }
}
