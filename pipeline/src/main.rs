//! The binary `haulstream`. Everything is in the library; here stand the allocator and the exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    without_huge_pages();
    pipeline::logging::end_process_at_panic();
    pipeline::cli::main()
}

/// The allocator asks for huge pages. Batches come and go by the thousand, so that most of the time would go into clearing two
/// megabytes for each few kilobytes, and memory would be three times what is used: see decision 4.
fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "a system call that takes numbers and touches no memory of ours")]
    // SAFETY: PR_SET_THP_DISABLE reads its four numbers only. Where it fails, the process merely stays slow.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}
