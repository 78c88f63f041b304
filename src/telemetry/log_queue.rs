//! The queue between the service and standard error.
//!
//! Logging must never block the service: standard error may be a pipe that is not read, or a file on a full disk. A line
//! is therefore copied into a queue that is bounded in bytes, and one thread writes the queue out. A line that does not
//! fit, or cannot be written, is dropped and counted by level. A quarter of the queue is reserved for lines at WARN and
//! above, so that a burst of INFO lines cannot hide an alarm.
//!
//! Panics and the reason of an exit are written directly, because the process may end before the queue is written. A
//! direct write, and the flush at the end, wait for at most [`PATIENCE`].

use std::{
    cell::Cell,
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The bytes that wait to be written, at most.
const CAPACITY: usize = 4 * 1024 * 1024;
/// The part of [`CAPACITY`] that only lines at WARN and above may use.
const RESERVED: usize = CAPACITY / 4;
/// The bookkeeping of one line, so that a flood of short lines is bounded in memory, too.
const LINE_OVERHEAD: usize = 64;
/// How long a direct write and the flush at the end wait for standard error.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the writer waits before it retries a descriptor that is in non-blocking mode and full.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The levels by which dropped lines are counted, in the order of [`rank`].
pub(super) const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

type Output = Box<dyn Write + Send>;

struct Line {
    level: Level,
    text: Box<[u8]>,
}

impl Line {
    fn size(&self) -> usize {
        self.text.len() + LINE_OVERHEAD
    }
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    /// The size of `lines` and of the line that is being written.
    bytes: usize,
    writing: bool,
    closed: bool,
    /// Dropped lines that no line of the log has reported yet.
    unreported: [u64; LEVELS.len()],
}

/// The one descriptor for direct writes, and whether a write to it is under way.
#[derive(Default)]
struct Direct {
    output: Option<Output>,
    /// The write that is under way has exceeded [`PATIENCE`].
    stuck: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Condvar,
    /// Everything was written.
    drained: Condvar,
    dropped: [AtomicU64; LEVELS.len()],
    direct: Mutex<Direct>,
    direct_done: Condvar,
}

/// See the module. Clones share one queue.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<Shared>);

thread_local! {
    /// Lines of this thread bypass the queue.
    static DIRECTLY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `log`, whose lines bypass the queue.
pub(super) fn directly(log: impl FnOnce()) {
    /// Resets the flag even if `log` panics.
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            // The flag is gone only while the thread ends.
            let _ = DIRECTLY.try_with(|flag| flag.set(self.0));
        }
    }
    let _reset = Reset(DIRECTLY.try_with(|flag| flag.replace(true)).unwrap_or_default());
    log();
}

impl LogQueue {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// If there is no descriptor or no thread for it.
    pub(super) fn start() -> io::Result<Self> {
        // Descriptors of their own: a thread that blocks in a write must not hold the lock of `std::io::stderr`.
        let queued = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let direct = queued.try_clone()?;
        Self::start_on(Box::new(queued), Box::new(direct))
    }

    fn start_on(mut queued: Output, direct: Output) -> io::Result<Self> {
        let queue = Self(Arc::new(Shared {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped: Default::default(),
            direct: Mutex::new(Direct { output: Some(direct), stuck: false }),
            direct_done: Condvar::new(),
        }));
        let shared = Arc::clone(&queue.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_out(&mut queued))?;
        Ok(queue)
    }

    /// Queues `text`, or drops and counts it if there is no room for it.
    pub(super) fn push(&self, level: Level, text: &[u8]) {
        let line = Line { level, text: text.into() };
        let limit = if level <= Level::WARN { CAPACITY } else { CAPACITY - RESERVED };
        let mut waiting = self.0.waiting();
        if waiting.bytes + line.size() > limit {
            self.0.count_dropped(&mut waiting, level);
            return;
        }
        waiting.bytes += line.size();
        waiting.lines.push_back(line);
        self.0.filled.notify_one();
    }

    /// Writes `text` past the queue. Waits for at most [`PATIENCE`], and not at all while an earlier direct write hangs.
    pub(super) fn write_directly(&self, level: Level, text: &[u8]) {
        let end = Instant::now() + PATIENCE;
        let mut direct = self.0.direct();
        let output = loop {
            if let Some(output) = direct.output.take() {
                break output;
            }
            let left = end.saturating_duration_since(Instant::now());
            if direct.stuck || left.is_zero() {
                drop(direct);
                self.0.count_dropped(&mut self.0.waiting(), level);
                return;
            }
            direct = self.0.direct_done.wait_timeout(direct, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let (shared, text) = (Arc::clone(&self.0), Box::<[u8]>::from(text));
        let writer =
            thread::Builder::new().name("log-direct".to_owned()).spawn(move || shared.write_one(output, level, &text));
        if writer.is_err() {
            // The descriptor went with the closure. Further lines cannot be written directly; the queue still writes.
            direct.stuck = true;
            drop(direct);
            self.0.count_dropped(&mut self.0.waiting(), level);
            return;
        }
        while direct.output.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                direct.stuck = true;
                return;
            }
            direct = self.0.direct_done.wait_timeout(direct, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the queue is written, at most [`PATIENCE`].
    pub(super) fn flush(&self) {
        let end = Instant::now() + PATIENCE;
        let mut waiting = self.0.waiting();
        while waiting.writing || !waiting.lines.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.0.drained.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lines at `level` that were dropped so far.
    pub(super) fn dropped(&self, level: Level) -> u64 {
        self.0.dropped[rank(level)].load(Ordering::Relaxed)
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn direct(&self) -> MutexGuard<'_, Direct> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, waiting: &mut Waiting, level: Level) {
        self.dropped[rank(level)].fetch_add(1, Ordering::Relaxed);
        waiting.unreported[rank(level)] += 1;
    }

    fn write_out(&self, output: &mut dyn Write) {
        // Whether the output ends in the middle of a line, after a write that failed.
        let mut torn = false;
        while let Some(line) = self.next() {
            let written = write_line(output, &line.text, &mut torn);
            let mut waiting = self.waiting();
            waiting.writing = false;
            waiting.bytes -= line.size();
            if written.is_err() {
                self.count_dropped(&mut waiting, line.level);
            }
            if waiting.lines.is_empty() {
                self.drained.notify_all();
            }
            // Only after a line was written: on an output that fails, each report would cause the next one.
            let report = written.is_ok() && waiting.bytes < CAPACITY / 2 && waiting.unreported != [0; LEVELS.len()];
            let unreported = if report { std::mem::take(&mut waiting.unreported) } else { [0; LEVELS.len()] };
            drop(waiting);
            if report {
                report_dropped(unreported);
            }
        }
    }

    fn next(&self) -> Option<Line> {
        let mut waiting = self.waiting();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.writing = true;
                return Some(line);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_one(&self, mut output: Output, level: Level, text: &[u8]) {
        let written = write_line(&mut output, text, &mut false);
        if written.is_err() {
            self.count_dropped(&mut self.waiting(), level);
        }
        *self.direct() = Direct { output: Some(output), stuck: false };
        self.direct_done.notify_all();
    }
}

/// Writes one line. After a failure in the middle of a line, the next line begins on a new one.
fn write_line(output: &mut dyn Write, text: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        write_all(output, b"\n")?;
        *torn = false;
    }
    let mut written = 0;
    let outcome = write_all_counted(output, text, &mut written);
    *torn = outcome.is_err() && written > 0;
    outcome
}

fn write_all(output: &mut dyn Write, text: &[u8]) -> io::Result<()> {
    write_all_counted(output, text, &mut 0)
}

fn write_all_counted(output: &mut dyn Write, text: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < text.len() {
        match output.write(&text[*written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the descriptor can set it to non-blocking mode.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(RETRY_AFTER),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn report_dropped(dropped: [u64; LEVELS.len()]) {
    let [errors, warnings, infos, debugs, traces] = dropped;
    let lines: u64 = dropped.iter().sum();
    tracing::warn!(
        lines,
        errors,
        warnings,
        infos,
        debugs,
        traces,
        "log lines were dropped because standard error was not read or could not be written"
    );
}

fn rank(level: Level) -> usize {
    LEVELS.iter().position(|other| *other == level).unwrap_or_default()
}

/// Writes one event of the log.
pub(super) struct LineWriter<'a> {
    queue: &'a LogQueue,
    level: Level,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if DIRECTLY.try_with(Cell::get).unwrap_or_default() {
            self.queue.write_directly(self.level, text);
        } else {
            self.queue.push(self.level, text);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        LineWriter { queue: self, level: *metadata.level() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that accepts nothing until the test says so.
    struct Gate {
        open: mpsc::Receiver<()>,
        is_open: bool,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.is_open = self.is_open || self.open.recv().is_ok();
            self.written.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Opener = mpsc::Sender<()>;

    /// The queue on outputs that are blocked, what opens the queued and the direct one, and what both wrote.
    fn blocked() -> (LogQueue, Opener, Opener, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let gate = || {
            let (opener, open) = mpsc::channel();
            (opener, Box::new(Gate { open, is_open: false, written: Arc::clone(&written) }))
        };
        let ((opener, queued), (direct_opener, direct)) = (gate(), gate());
        (LogQueue::start_on(queued, direct).unwrap(), opener, direct_opener, written)
    }

    #[test]
    fn a_blocked_output_drops_and_counts_and_leaves_a_quarter_to_warnings() {
        let (queue, opener, _direct, written) = blocked();
        let text = [b'x'; 1_024 - LINE_OVERHEAD];
        let most = (CAPACITY - RESERVED) / 1_024;
        for _ in 0..most + 100 {
            queue.push(Level::INFO, &text);
        }
        assert_eq!(queue.dropped(Level::INFO), 100);
        for _ in 0..RESERVED / 1_024 + 7 {
            queue.push(Level::WARN, &text);
        }
        assert_eq!(queue.dropped(Level::WARN), 7);
        assert_eq!(queue.dropped(Level::ERROR), 0);
        opener.send(()).unwrap();
        queue.flush();
        assert_eq!(written.lock().unwrap().len(), CAPACITY / 1_024 * text.len());
    }

    #[test]
    fn short_lines_are_bounded_in_memory_too() {
        let (queue, _opener, _direct, _) = blocked();
        for _ in 0..CAPACITY {
            queue.push(Level::ERROR, b"\n");
        }
        let kept = CAPACITY as u64 - queue.dropped(Level::ERROR);
        assert!(kept <= (CAPACITY / LINE_OVERHEAD) as u64, "{kept} lines are kept");
    }

    #[test]
    fn a_flush_and_a_direct_write_give_up_after_a_second_and_the_next_direct_write_at_once() {
        let (queue, _opener, _direct, _) = blocked();
        queue.push(Level::INFO, b"a line\n");
        let begun = Instant::now();
        queue.flush();
        queue.write_directly(Level::ERROR, b"the reason\n");
        let both = begun.elapsed();
        assert!(both >= PATIENCE * 2 && both < PATIENCE * 4, "{both:?}");
        let begun = Instant::now();
        queue.write_directly(Level::ERROR, b"another\n");
        assert!(begun.elapsed() < PATIENCE / 2);
        assert_eq!(queue.dropped(Level::ERROR), 1);
    }

    #[test]
    fn direct_writes_pass_the_queue() {
        let (queue, _opener, direct, written) = blocked();
        direct.send(()).unwrap();
        queue.push(Level::INFO, b"waits\n");
        directly(|| {
            LineWriter { queue: &queue, level: Level::ERROR }.write_all(b"first\n").unwrap();
            LineWriter { queue: &queue, level: Level::ERROR }.write_all(b"second\n").unwrap();
        });
        assert_eq!(*written.lock().unwrap(), b"first\nsecond\n");
    }

    #[test]
    fn a_line_after_a_torn_one_begins_anew() {
        struct Full(Vec<u8>, usize);
        impl Write for Full {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                let room = self.1.min(text.len());
                if room == 0 {
                    return Err(ErrorKind::StorageFull.into());
                }
                self.0.extend_from_slice(&text[..room]);
                self.1 -= room;
                Ok(room)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut output, mut torn) = (Full(Vec::new(), 5), false);
        assert!(write_line(&mut output, b"first line\n", &mut torn).is_err());
        output.1 = 100;
        write_line(&mut output, b"second\n", &mut torn).unwrap();
        assert_eq!(output.0, b"first\nsecond\n");
    }
}
