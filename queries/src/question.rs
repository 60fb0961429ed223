//! One question in SQL, whatever it is asked of: what it may say, what it may take, and threads of its own to answer on.
//!
//! Invariant: a question only reads, and never takes more memory, rows or time than it was given; whatever it asks, the process
//! that answers lives on.

mod bound;
pub(crate) mod limits;
pub(crate) mod refuse;
pub(crate) mod statement;
mod threads;

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray as _};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures_util::StreamExt as _;
use operators::error::Refusal;
use serde::Deserialize;

use crate::answer::Answer;

pub(crate) use limits::session;
pub(crate) use threads::Threads;
pub use threads::is_guarded;
pub(crate) use threads::{STACK_BYTES, guard};

/// Longest text of a question, in bytes.
pub const SQL_BYTES_MAX: usize = 64 << 10;
/// Most words, numbers and signs of a question. Planning takes time with their square, and cannot be interrupted.
pub const SQL_TOKENS_MAX: usize = 2_000;

/// What one question may take.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    /// Bytes of memory that sorts, joins, aggregates and the answer may take.
    pub memory_bytes_max: usize,
    /// Rows of the answer; further ones are left out, and the answer says so.
    pub rows_max: usize,
    /// Milliseconds until the question is given up.
    pub time_ms_max: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// Whether the plan only reads. The text does not show all: SELECT INTO and the like.
pub(crate) fn only_reads(plan: &LogicalPlan) -> Result<(), Refusal> {
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(plan).map_err(|e| statement::not_allowed(&e.strip_backtrace()))
}

/// Carries out a plan that [`only_reads`].
pub(crate) async fn answer(context: &SessionContext, plan: &LogicalPlan, options: &Options) -> Result<Answer, Refusal> {
    only_reads(plan)?;
    let plan = context.state().create_physical_plan(plan).await.map_err(|e| refuse::refusal(&e, &[]))?;
    collect(context, bound::bound(plan)?, options).await
}

async fn collect(context: &SessionContext, plan: Arc<dyn ExecutionPlan>, options: &Options) -> Result<Answer, Refusal> {
    let refuse = |e| refuse::refusal(&e, &[]);
    let schema = plan.schema();
    let mut stream = execute_stream(plan, context.task_ctx()).map_err(refuse)?;
    let (mut batches, mut rows, mut bytes): (Vec<RecordBatch>, usize, usize) = (Vec::new(), 0, 0);
    let mut truncated = false;
    while let Some(batch) = stream.next().await {
        let mut batch = batch.map_err(refuse)?;
        let room = options.rows_max - rows;
        if batch.num_rows() > room {
            batch = batch.slice(0, room);
            truncated = true;
        }
        rows += batch.num_rows();
        bytes += bytes_of(&batch);
        if bytes > options.memory_bytes_max {
            return Err(refuse::too_much(&format!("the answer is larger than {} bytes", options.memory_bytes_max)));
        }
        batches.push(batch);
        if truncated {
            break;
        }
    }
    Ok(Answer { schema, batches, truncated, as_of: None })
}

/// Bytes of the rows of a batch, which may be a small part of a large one that is there anyway.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column_bytes(column.as_ref())).sum()
}

fn column_bytes(column: &dyn Array) -> usize {
    let rows = column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    rows + match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    }
}
