//! `haulstream topics`: Kafka's topics as the configuration wants them.
//!
//! Invariant: `plan` changes nothing; `apply` makes and grows topics, and never shrinks or deletes one.

use clap::{Args, ValueEnum};
use operators::record::declared::Declared;
use sources::kafka::topics::{Cleanup, Topic, apply, plan};

use super::{ConfigFile, Failure, block_on, print};
use crate::config::Config;
use crate::schema;

/// What `topics` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Show what would be done, or do it.
    #[arg(value_enum)]
    action: Action,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Show what would be done.
    Plan,
    /// Do it.
    Apply,
}

/// Compares the topics of the cluster with the configuration's.
///
/// # Errors
/// A wrong configuration, or what the cluster said.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.file.load([])?.config;
    let catalog = schema::catalog(&config).map_err(Failure::Usage)?;
    let wanted = wanted(&config, catalog.declared());
    let failed = |why: sources::SourceError| Failure::Runtime(why.to_string());
    block_on(&config, async {
        let plan = plan(&config.kafka, &wanted).await.map_err(failed)?;
        print(&plan.to_string())?;
        if arguments.action == Action::Apply && !plan.is_empty() {
            apply(&config.kafka, &plan).await.map_err(failed)?;
            print("done\n")?;
        }
        Ok(())
    })
}

/// Every topic that the process reads or writes.
fn wanted(config: &Config, declared: impl Iterator<Item = &'static Declared>) -> Vec<Topic> {
    let options = &config.kafka_topics;
    let replication = (options.replication > 0).then_some(options.replication);
    let events = |name: &str, partitions| Topic {
        name: name.to_owned(),
        partitions,
        replication,
        retention_ms: Some(options.retention_ms),
        cleanup: Cleanup::Delete,
    };
    let table =
        |name: &str, partitions| Topic { retention_ms: None, cleanup: Cleanup::Compact, ..events(name, partitions) };
    let topics = &config.topics;
    let mut all = vec![events(&topics.telemetry, options.partitions), events(&topics.dead_letters, options.partitions)];
    let references = [&topics.vehicle, &topics.driver, &topics.company, &topics.tariff];
    all.extend(references.map(|name| table(name, options.reference_partitions)));
    all.extend(declared.map(|declared| match declared.table {
        true => table(&declared.topic, options.reference_partitions),
        false => events(&declared.topic, options.partitions),
    }));
    if config.kafka_sink.enabled {
        all.push(table(&topics.vehicle_state, options.partitions));
        all.extend([&topics.online, &topics.offline].map(|name| events(name, options.partitions)));
        if config.kafka_sink.enriched {
            all.push(events(&topics.enriched, options.partitions));
        }
    }
    all
}
