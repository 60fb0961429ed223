//! Threads that answer questions: their own, so that a heavy question slows other questions and not the process.
//!
//! Invariant: a panic on one of these threads ends the question that it happened in, and nothing else.

use std::cell::Cell;
use std::time::Duration;

use operators::error::Refusal;
use tokio::runtime::{Builder, Handle, Runtime};

/// Stack of the threads that plan and compute: expressions are walked recursively, and may be as deep as
/// [`SQL_TOKENS_MAX`](super::SQL_TOKENS_MAX) can nest them.
pub(crate) const STACK_BYTES: usize = 64 << 20;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread answers questions, so that a panic is caught and ends one of them only: a panic hook that ends the
/// process must let it pass.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Makes this thread such a one.
pub(crate) fn guard() {
    GUARDED.set(true);
}

/// Makes all threads of a runtime such.
fn guarded(builder: &mut Builder) -> &mut Builder {
    builder.thread_stack_size(STACK_BYTES).on_thread_start(|| GUARDED.set(true))
}

/// The threads of one history, or of all reads.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // Not the plain drop, which must not happen inside of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    /// This many of them.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Threads> {
        let mut builder = Builder::new_multi_thread();
        let runtime = guarded(builder.worker_threads(threads).thread_name(name).enable_all()).build()?;
        Ok(Threads(Some(runtime)))
    }

    /// To start what runs on its own there.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken only by drop").handle()
    }

    /// Does the work there and waits for it. A caller that gives up ends it.
    ///
    /// # Errors
    /// What the work is refused for, that it took too long, or that it ended abruptly.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let late = move || {
            Refusal::new("sql_time_limit", format!("not answered within {} ms", limit.as_millis()))
                .hint("ask for less: a shorter time, fewer vehicles, an aggregate")
        };
        let timed = async move { tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late())) };
        let running = self.handle().spawn(timed);
        let _abort = AbortOnDrop(running.abort_handle());
        running.await.unwrap_or_else(|e| Err(Refusal::new("sql_failed", format!("the query ended abruptly: {e}"))))
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_question() {
        let threads = Threads::start("question", 1).unwrap();
        let limit = Duration::from_secs(10);
        let work = async {
            assert!(is_guarded());
            if is_guarded() {
                panic!("as a fault in an expression would");
            }
            Ok(1)
        };
        let refusal = threads.run(limit, work).await.unwrap_err();
        assert_eq!(refusal.code, "sql_failed", "{refusal}");
        assert_eq!(threads.run(limit, async { Ok(2) }).await, Ok(2));
        assert!(!is_guarded());
    }
}
