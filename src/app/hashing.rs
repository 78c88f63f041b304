//! A few threads that run argon2, so that hashing neither blocks the runtime nor takes unbounded memory.
//!
//! Each thread keeps the working memory of its last run. The queue is bounded and fair: callers take turns, and within one
//! caller the merchants of the keys do. When it is full, the newest job of the caller with most waiting gives way to a caller
//! with fewer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    admission::{FairQueue, Share},
    domain::{
        Error, Merchant, Result,
        secret_hash::{Hasher, Memory},
    },
    trace::{self, SpanKind},
};

/// When to try again if the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// On whose behalf a hash is computed.
#[derive(Clone, Debug)]
pub(super) struct Behalf {
    /// The share of the caller.
    pub(super) caller: Share,
    /// The merchant of the key.
    pub(super) merchant: Merchant,
}

type Run = Box<dyn FnOnce(&Hasher, &mut Memory) + Send>;

struct Job {
    run: Run,
    /// Alive as long as the result is awaited.
    awaited: Weak<()>,
}

/// The threads and their queue.
pub(super) struct HashingPool {
    hasher: Arc<Hasher>,
    line: Arc<Line>,
    shed: AtomicU64,
}

/// The jobs that wait for a thread.
struct Line {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: FairQueue<Share, Merchant, Job>,
    is_closed: bool,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is released, so a panic leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; returns the one that did not find room for it, which may be this one.
    fn push(&self, behalf: Behalf, job: Job) -> Option<Job> {
        let mut state = self.lock();
        let waiting = &mut state.waiting;
        if waiting.len() >= self.most {
            waiting.retain(|job| job.awaited.strong_count() > 0);
        }
        let mut given_way = None;
        if waiting.len() >= self.most {
            given_way = waiting.pop_newest_of_largest(waiting.len_of(&behalf.caller) + 1);
            if given_way.is_none() {
                return Some(job);
            }
        }
        waiting.push(behalf.caller, behalf.merchant, job);
        drop(state);
        self.changed.notify_one();
        given_way
    }

    /// The next job; none once the line is closed.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = state.waiting.pop() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl HashingPool {
    /// Starts `threads` threads with a queue of `queue` jobs; both at least one.
    pub(super) fn start(threads: usize, queue: usize) -> std::io::Result<Self> {
        let line = Line { most: queue.max(1), state: Mutex::default(), changed: Condvar::new() };
        // Dropping the pool ends the threads that were started, also if a later one cannot be.
        let pool = Self { hasher: Arc::default(), line: Arc::new(line), shed: AtomicU64::new(0) };
        for number in 0..threads.max(1) {
            let (hasher, line) = (Arc::clone(&pool.hasher), Arc::clone(&pool.line));
            thread::Builder::new().name(format!("hashing-{number}")).spawn(move || work(&hasher, &line))?;
        }
        Ok(pool)
    }

    /// How many jobs wait for a thread now.
    pub(super) fn waiting(&self) -> usize {
        self.line.lock().waiting.len()
    }

    /// How many jobs were refused because the queue was full.
    pub(super) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// The counter of runs.
    pub(super) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Runs `job` on one of the threads and waits for its result.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full, or if the job gave way to one of another caller.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        behalf: Behalf,
        job: impl FnOnce(&Hasher, &mut Memory) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let awaited = Arc::new(());
        let run = move |hasher: &Hasher, memory: &mut Memory| {
            // Spares the work if the result is no longer awaited.
            if !answer.is_closed() {
                // The panic ends here, so that a sender that is dropped without a result means that the job gave way.
                let outcome = catch_unwind(AssertUnwindSafe(|| job(hasher, memory)));
                if outcome.is_err() {
                    tracing::error!("a hashing job panicked");
                    *memory = Memory::default();
                }
                // The receiver may be dropped while the job runs; then the result is not needed.
                drop(answer.send(outcome.ok()));
            }
        };
        let job = Job { run: Box::new(run), awaited: Arc::downgrade(&awaited) };
        if self.line.push(behalf, job).is_some() {
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
        // The span covers the wait for a thread, which is what an operator looks for in it.
        let result = trace::spanned("argon2", SpanKind::Internal, Vec::new, result).await;
        drop(awaited);
        match result {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Error::fault("a hashing job panicked")),
            Err(_dropped) => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        }
    }
}

impl Drop for HashingPool {
    fn drop(&mut self) {
        self.line.lock().is_closed = true;
        self.line.changed.notify_all();
    }
}

/// How much the threads step back for others, as `nice` counts: what is warm is to be answered as before while very many
/// keys are proved for the first time.
const NICENESS: i32 = 10;

fn work(hasher: &Hasher, line: &Line) {
    // On Linux this is of the thread alone. Without it hashing is only less polite.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "hashing threads run with the priority of all others");
    }
    let mut memory = Memory::default();
    while let Some(job) = line.next() {
        (job.run)(hasher, &mut memory);
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

    fn by(caller: &str, merchant: &str) -> Behalf {
        Behalf { caller: Share::Merchant(caller.into()), merchant: merchant.parse().unwrap() }
    }

    /// A job that holds the only thread until the barrier lets it go.
    async fn occupied(pool: &Arc<HashingPool>) -> (JoinHandle<Result<()>>, Arc<Barrier>) {
        let (began, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let running = tokio::spawn({
            let (pool, began, go_on) = (Arc::clone(pool), Arc::clone(&began), Arc::clone(&go_on));
            async move {
                pool.run(by("a", "a"), move |_, _| {
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
        let waiting = pool.run(by("a", "a"), |_, _| 1);
        let mut waiting = Box::pin(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(matches!(pool.run(by("a", "a"), |_, _| 2).await, Err(Error::Overloaded { .. })));
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
        let mut late = Box::pin(pool.run(by("a", "a"), job()));
        assert!(futures_util::poll!(&mut late).is_pending());
        // Its deadline has passed.
        drop(late);
        go_on.wait();
        running.await.unwrap().unwrap();
        assert_eq!(pool.run(by("a", "a"), job()).await.unwrap(), 0, "it is the first that runs");
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_nobody_with_it() {
        let pool = HashingPool::start(1, 4).unwrap();
        assert!(pool.run(by("a", "a"), |_, _| panic!("as the test wants")).await.is_err());
        assert_eq!(pool.run(by("a", "a"), |_, _| 3).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn callers_take_turns_and_merchants_within_a_caller() {
        let pool = Arc::new(HashingPool::start(1, 16).unwrap());
        let (running, go_on) = occupied(&pool).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (caller, merchant, name) in
            [("a", "x", 1), ("a", "x", 2), ("a", "x", 3), ("a", "y", 4), ("b", "x", 5), ("b", "x", 6)]
        {
            let order = Arc::clone(&order);
            let mut job = Box::pin(pool.run(by(caller, merchant), move |_, _| order.lock().unwrap().push(name)));
            assert!(futures_util::poll!(&mut job).is_pending());
            waiting.push(job);
        }
        go_on.wait();
        running.await.unwrap().unwrap();
        for job in waiting {
            job.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 5, 4, 6, 2, 3]);
    }

    #[tokio::test]
    async fn the_newest_job_of_the_caller_with_most_gives_way_when_the_queue_is_full() {
        let pool = Arc::new(HashingPool::start(1, 3).unwrap());
        let (running, go_on) = occupied(&pool).await;
        let mut of_a: Vec<_> = (0..3).map(|number| Box::pin(pool.run(by("a", "x"), move |_, _| number))).collect();
        for job in &mut of_a {
            assert!(futures_util::poll!(job).is_pending());
        }
        assert!(matches!(pool.run(by("a", "y"), |_, _| 3).await, Err(Error::Overloaded { .. })), "none has fewer");
        let mut of_b = Box::pin(pool.run(by("b", "x"), |_, _| 4));
        assert!(futures_util::poll!(&mut of_b).is_pending());
        assert!(matches!(of_a.pop().unwrap().await, Err(Error::Overloaded { .. })));
        // The queue is full of jobs that are still awaited, and each caller holds about as many as the other.
        assert!(matches!(pool.run(by("b", "x"), |_, _| 5).await, Err(Error::Overloaded { .. })));
        assert_eq!((pool.waiting(), pool.shed()), (3, 3));
        // A job that is no longer awaited leaves its place to a new one.
        drop(of_a.pop());
        let mut late = Box::pin(pool.run(by("b", "x"), |_, _| 6));
        assert!(futures_util::poll!(&mut late).is_pending());
        go_on.wait();
        running.await.unwrap().unwrap();
        assert_eq!((of_a.pop().unwrap().await.unwrap(), of_b.await.unwrap(), late.await.unwrap()), (0, 4, 6));
    }

    #[tokio::test]
    async fn the_threads_end_with_the_pool() {
        let pool = HashingPool::start(2, 4).unwrap();
        let line = Arc::downgrade(&pool.line);
        drop(pool);
        tokio::task::spawn_blocking(move || {
            while line.strong_count() > 0 {
                thread::yield_now();
            }
        })
        .await
        .unwrap();
    }
}
