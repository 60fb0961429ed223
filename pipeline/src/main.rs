//! The binary `haulstream`. Everything is in the library; here stand the allocator and the exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pipeline::logging::end_process_at_panic();
    pipeline::cli::main()
}
