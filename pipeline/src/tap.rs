//! Where a stream leaves the dataflow: rows and the frontier behind them go to the feeds of the sinks that want the stream.

use operators::batch::Batch;
use operators::time::{Tick, closed_before};
use sinks::Rows;
use sinks::run::Feed;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::{ProbeHandle, Stream};

/// How a stream's rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For ever, each by its own identity.
    Append,
    /// The newest of each key.
    Upsert,
}

/// Hands the rows of `stream` to `feeds`, and to each the frontier after them; `probe` follows.
pub fn tap(
    stream: Stream<'_, Tick, Batch>,
    name: &'static str,
    kind: Kind,
    worker: usize,
    feeds: Vec<Feed>,
    probe: &ProbeHandle<Tick>,
) {
    let end = stream.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Tap", move |_, _| {
        let mut told = 0;
        move |(input, frontier), _output| {
            input.for_each(|_, batch| {
                let Some(rows) = batch.take() else { return };
                for feed in &feeds {
                    let rows = match kind {
                        Kind::Append => Rows::Append(rows.clone()),
                        Kind::Upsert => Rows::Upsert(rows.clone()),
                    };
                    feed.push(name, worker, rows);
                }
            });
            let upto = closed_before(frontier.frontier());
            if upto > told {
                told = upto;
                feeds.iter().for_each(|feed| feed.close(name, worker, upto));
            }
        }
    });
    end.probe_with(probe);
}
