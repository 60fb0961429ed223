//! The session of one question: its memory, its threads, and the functions it may call.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::context::{SessionConfig, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;

use super::Options;

/// Functions that make something large out of nothing, in one call that no limit can interrupt.
pub(crate) const LARGE: [&str; 9] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "generate_series",
    "range",
];

/// A session of this catalog that knows no table yet.
pub(crate) fn session(options: &Options, catalog: &str) -> Result<SessionContext, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes_max)))
        // A question leaves nothing on the disk: what does not fit into its memory is refused.
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let config = SessionConfig::new()
        .with_target_partitions(options.threads)
        .with_default_catalog_and_schema(catalog, "public")
        .with_information_schema(false)
        // Nothing says that one ends, and it can't be stopped.
        .set_bool("datafusion.execution.enable_recursive_ctes", false);
    let context = SessionContext::new_with_config_rt(config, runtime);
    forbid(&context, &LARGE);
    Ok(context)
}

/// Takes functions out of a session, whether they give a value or a table.
pub(crate) fn forbid(context: &SessionContext, names: &[&str]) {
    for name in names {
        context.deregister_udf(name);
        context.deregister_udtf(name);
    }
}
