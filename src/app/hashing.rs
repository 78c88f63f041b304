//! A few threads that run argon2, so that hashing neither blocks the runtime nor takes unbounded memory.
//!
//! Each thread keeps the working memory of its last run. The queue is bounded; what does not fit is refused at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use crate::{
    domain::{
        Error, Result,
        secret_hash::{Hasher, Memory},
    },
    trace::{self, SpanKind},
};

/// When to come back if the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);

type Job = Box<dyn FnOnce(&Hasher, &mut Memory) + Send>;

/// The threads and their queue.
pub(super) struct HashingPool {
    hasher: Arc<Hasher>,
    queue: mpsc::Sender<Job>,
    shed: AtomicU64,
}

impl HashingPool {
    /// Starts `threads` threads with a queue of `queue` jobs; both at least one.
    pub(super) fn start(threads: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let receiver = Arc::new(Mutex::new(receiver));
        let hasher = Arc::new(Hasher::default());
        for number in 0..threads.max(1) {
            let (hasher, receiver) = (Arc::clone(&hasher), Arc::clone(&receiver));
            thread::Builder::new().name(format!("hashing-{number}")).spawn(move || work(&hasher, &receiver))?;
        }
        Ok(Self { hasher, queue: sender, shed: AtomicU64::new(0) })
    }

    /// How many jobs wait for a thread now.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// How many jobs were refused because the queue was full.
    pub(super) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// The counter of runs.
    pub(super) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Runs `job` on one of the threads and waits for what it makes.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Hasher, &mut Memory) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, waiting) = oneshot::channel();
        let job: Job = Box::new(move |hasher, memory| {
            // Nobody waits any longer: spare the work.
            if !answer.is_closed() {
                // The receiver may go while the job runs; then nobody wants the answer.
                drop(answer.send(job(hasher, memory)));
            }
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                self.shed.fetch_add(1, Ordering::Relaxed);
                Error::Overloaded { retry_after: RETRY_AFTER }
            }
            TrySendError::Closed(_) => Error::fault("the hashing threads are gone"),
        })?;
        // The span holds the waiting for a thread, too: that is what an operator looks for in it.
        let waited = async { waiting.await.map_err(|_| Error::fault("a hashing job panicked")) };
        trace::spanned("argon2", SpanKind::Internal, Vec::new, waited).await
    }
}

/// How much the threads step back for others, as `nice` counts: what is warm is to be answered as before while very many
/// keys are proved for the first time.
const NICENESS: i32 = 10;

fn work(hasher: &Hasher, receiver: &Mutex<mpsc::Receiver<Job>>) {
    // On Linux this is of the thread alone. Without it hashing is only less polite.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "hashing threads run with the priority of all others");
    }
    let mut memory = Memory::default();
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = job else { return };
        if catch_unwind(AssertUnwindSafe(|| job(hasher, &mut memory))).is_err() {
            tracing::error!("a hashing job panicked");
            memory = Memory::default();
        }
        // As long as there is work this thread never waits, and the kernel would let it have its whole slice, some
        // milliseconds, before those who wait for the core (of warm calls meanwhile the 99th percentile went from 1-3 ms to
        // 0.2-0.4 ms, `cargo bench --bench cold`).
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use tokio::task::JoinHandle;

    use super::*;

    /// A job that holds the only thread until the barrier lets it go.
    async fn occupied(pool: &Arc<HashingPool>) -> (JoinHandle<Result<()>>, Arc<Barrier>) {
        let (began, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let running = tokio::spawn({
            let (pool, began, go_on) = (Arc::clone(pool), Arc::clone(&began), Arc::clone(&go_on));
            async move {
                pool.run(move |_, _| {
                    began.wait();
                    go_on.wait();
                })
                .await
            }
        });
        tokio::task::spawn_blocking(move || began.wait()).await.unwrap();
        (running, go_on)
    }

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_refused_with_a_hint() {
        let pool = Arc::new(HashingPool::start(1, 1).unwrap());
        let (running, go_on) = occupied(&pool).await;
        let waiting = pool.run(|_, _| 1);
        let mut waiting = Box::pin(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(matches!(pool.run(|_, _| 2).await, Err(Error::Overloaded { .. })));
        go_on.wait();
        running.await.unwrap().unwrap();
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_run() {
        let pool = Arc::new(HashingPool::start(1, 4).unwrap());
        let (running, go_on) = occupied(&pool).await;
        let ran = Arc::new(AtomicU64::new(0));
        let job = || {
            let ran = Arc::clone(&ran);
            move |_: &Hasher, _: &mut Memory| ran.fetch_add(1, Ordering::Relaxed)
        };
        let mut late = Box::pin(pool.run(job()));
        assert!(futures_util::poll!(&mut late).is_pending());
        // Its deadline has passed.
        drop(late);
        go_on.wait();
        running.await.unwrap().unwrap();
        assert_eq!(pool.run(job()).await.unwrap(), 0, "it is the first that runs");
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_nobody_with_it() {
        let pool = HashingPool::start(1, 4).unwrap();
        assert!(pool.run(|_, _| panic!("as the test wants")).await.is_err());
        assert_eq!(pool.run(|_, _| 3).await.unwrap(), 3);
    }
}
