//! Logs: text for a terminal or JSON for machines, always to standard error, and never a secret.
//!
//! Lines go through `log_queue`, so logging never blocks the service.

use std::{
    fmt,
    io::{IsTerminal, stderr},
    panic,
    sync::OnceLock,
};

use opentelemetry::{KeyValue, global};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
        layer,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::log_queue::{LEVELS, LogQueue, directly};
use crate::{
    config::LogSettings,
    trace::{self, SCOPE},
};

/// The queue of this process, once it logs.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Libraries that print headers or statements when asked for their details. They are not asked, whatever the filter; what
/// they tell of their own accord below a warning (a migration, a notice of the database) helps nobody either.
const DISCREET: [&str; 13] = [
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry-otlp",
    "opentelemetry_sdk",
    "rustls",
    "sea_orm",
    "sea_orm_migration",
    "sqlx",
    "tokio_rustls",
    "tonic",
    "tower",
];

/// Begins to log. To be called once.
///
/// # Errors
/// If something in this process logs already.
pub fn begin(settings: &LogSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| error.to_string())?;
    // A filter of its own: a directive in the other one would give way to a finer one such as `h2::codec=trace`.
    let discreet = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(DISCREET.map(|library| (library, LevelFilter::WARN)));
    let registry = tracing_subscriber::registry().with(filter).with(discreet);
    let queue = LogQueue::start().map_err(|error| format!("the log cannot be started: {error}"))?;
    let queue = QUEUE.get_or_init(|| queue).clone();
    let begun = if settings.json {
        let line = JsonLine(Format::default().json().flatten_event(true));
        registry.with(layer().json().event_format(line).with_writer(queue)).try_init()
    } else {
        registry.with(layer().with_writer(queue).with_ansi(stderr().is_terminal())).try_init()
    };
    begun.map_err(|error| error.to_string())?;
    log_panics();
    Ok(())
}

/// Queues `text` as it is, without the form of a log line.
pub fn print(text: &str) {
    if let Some(queue) = QUEUE.get() {
        queue.push(Level::INFO, text.as_bytes());
    }
}

/// Writes what the queue holds, then the lines of `log` past the queue. Takes a few seconds at most, even if standard
/// error is not read.
pub fn last_words(log: impl FnOnce()) {
    flush();
    directly(log);
}

/// Writes `text` to standard error past the queue, after what the queue holds. Works before [`begin`], too, and takes a few
/// seconds at most.
pub fn print_directly(text: &str) {
    flush();
    let queue = QUEUE.get().cloned().or_else(|| LogQueue::start().ok());
    if let Some(queue) = queue {
        queue.write_directly(Level::ERROR, text.as_bytes());
    }
}

/// Writes what the queue holds. Takes a second at most. To be called before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// Shows how many lines were dropped, with the meter that is set.
pub(super) fn observe() {
    global::meter(SCOPE)
        .u64_observable_counter("claviger.log.lines.dropped")
        .with_description("Log lines dropped because standard error was not read or could not be written, by level")
        .with_callback(|observer| {
            let Some(queue) = QUEUE.get() else { return };
            for level in LEVELS {
                observer.observe(queue.dropped(level), &[KeyValue::new("level", level.as_str().to_ascii_lowercase())]);
            }
        })
        .build();
}

/// A line of JSON, with the ids of the trace and the span that it was written in.
struct JsonLine(Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((trace_id, span_id)) = trace::current_ids() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(open) => writeln!(writer, "{open},\"trace_id\":\"{trace_id}\",\"span_id\":\"{span_id}\"}}"),
            None => writer.write_str(&line),
        }
    }
}

/// Logs where a panic was, but not what it says: the standard library's own messages quote the text at hand, which could
/// hold a secret.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        directly(|| tracing::error!(location, "panic"));
    }));
}
