//! A table of the history with the rows of some companies.
//!
//! Invariant: a row of others leaves the scan for nothing: no condition of a question is computed on it, and no statistics of the
//! files, which are of all rows, are told.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, SendableRecordBatchStream};
use futures_util::{StreamExt as _, stream};

use crate::readers::{Companies, Sieve};

/// The table with the rows of these companies, of which `access` is the column that says whose a row is; without one it has
/// none for who does not see all.
pub fn rows(
    all: Arc<dyn TableProvider>,
    access: Option<&'static str>,
    companies: &Companies,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    if *companies == Companies::All {
        return Ok(all);
    }
    let place = access.and_then(|access| all.schema().index_of(access).ok());
    Ok(match place {
        Some(access) => Arc::new(Own { all, access, companies: companies.clone() }),
        None => Arc::new(MemTable::try_new(all.schema(), vec![vec![]])?),
    })
}

#[derive(Debug)]
struct Own {
    all: Arc<dyn TableProvider>,
    /// Place of the column that says whose a row is.
    access: usize,
    companies: Companies,
}

#[async_trait]
impl TableProvider for Own {
    fn schema(&self) -> SchemaRef {
        self.all.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.schema().fields().len()).collect());
        let mut read = wanted.clone();
        if !read.contains(&self.access) {
            read.push(self.access);
        }
        let plan = self.all.scan(state, Some(&read), &[], None).await?;
        let schema = plan.schema();
        let sieve = Sieve::new(&self.companies, &schema, Some(self.schema().field(self.access).name()))
            .ok_or_else(|| DataFusionError::Internal("a table of the history has no column of companies".to_owned()))?;
        let part = |number| {
            let (plan, schema, sieve) = (plan.clone(), schema.clone(), sieve.clone());
            Arc::new(Part { plan, schema, number, sieve }) as Arc<dyn PartitionStream>
        };
        let parts = (0..plan.output_partitioning().partition_count()).map(part).collect();
        let shown = (0..wanted.len()).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema.clone(), parts, Some(&shown), [], false, limit)?))
    }
}

/// One part of the rows, which are read side by side.
#[derive(Debug)]
struct Part {
    plan: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    number: usize,
    sieve: Sieve,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let sieve = self.sieve.clone();
        let rows = match self.plan.execute(self.number, context) {
            Ok(rows) => rows.map(move |rows| Ok(sieve.rows(rows?)?)).boxed(),
            Err(why) => stream::once(async { Err(why) }).boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows))
    }
}
