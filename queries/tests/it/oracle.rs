//! DataFusion's own answers over the tables' content at a tick.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use operators::time::Tick;

use crate::harness::{Changing, texts};

/// The content of a table, which is another at each tick while the plan is the same.
#[derive(Debug)]
struct Content {
    schema: SchemaRef,
    rows: Mutex<RecordBatch>,
}

impl PartitionStream for Content {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().expect("nobody panics with it").clone();
        Box::pin(MemoryStream::try_new(vec![rows], self.schema.clone(), None).expect("rows of the schema"))
    }
}

/// DataFusion over the tables.
pub struct Oracle {
    context: SessionContext,
    runtime: tokio::runtime::Runtime,
    tables: Vec<(Changing, Arc<Content>)>,
    now: Arc<AtomicI64>,
}

impl Oracle {
    pub fn new(tables: &[Changing]) -> Self {
        // The check is of no use here, and fails for plans that are right. A plan with the value of a subquery in it
        // cannot be run again.
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .set_bool("datafusion.execution.skip_physical_aggregate_schema_check", true)
            .set_bool("datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery", false);
        let context = SessionContext::new_with_config(config);
        let content = |table: &Changing| {
            let rows = Mutex::new(RecordBatch::new_empty(table.schema.clone()));
            let content = Arc::new(Content { schema: table.schema.clone(), rows });
            let streaming = StreamingTable::try_new(table.schema.clone(), vec![content.clone()]).expect("one schema");
            context.register_table(table.name.as_str(), Arc::new(streaming)).expect("a new name");
            (table.clone(), content)
        };
        let tables = tables.iter().map(content).collect();
        let now = Arc::new(AtomicI64::new(0));
        let tick = now.clone();
        let value = move |_: &[ColumnarValue]| {
            let tick = tick.load(Ordering::Relaxed);
            Ok(ColumnarValue::Scalar(ScalarValue::TimestampMillisecond(Some(tick), None)))
        };
        let kind = DataType::Timestamp(TimeUnit::Millisecond, None);
        context.register_udf(create_udf("now", Vec::new(), kind, Volatility::Volatile, Arc::new(value)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Oracle { context, runtime, tables, now }
    }

    /// The answers at these ticks, with `now()` as the tick.
    pub fn answers(&self, sql: &str, ticks: &[Tick]) -> Result<Vec<Vec<String>>, String> {
        let answers = || {
            let plan = self.runtime.block_on(async { self.context.sql(sql).await?.create_physical_plan().await })?;
            ticks.iter().map(|tick| self.answer(&plan, *tick)).collect::<Result<Vec<_>>>()
        };
        let answers = std::panic::catch_unwind(std::panic::AssertUnwindSafe(answers));
        answers.map_err(|_| "the library panics".to_owned())?.map_err(|why: DataFusionError| why.strip_backtrace())
    }

    fn answer(&self, plan: &Arc<dyn ExecutionPlan>, tick: Tick) -> Result<Vec<String>> {
        self.now.store(tick as i64, Ordering::Relaxed);
        for (table, content) in &self.tables {
            *content.rows.lock().expect("nobody panics with it") = table.at(tick);
        }
        let plan = reset_plan_states(plan.clone())?;
        Ok(texts(&self.runtime.block_on(collect(plan, self.context.task_ctx()))?))
    }
}
