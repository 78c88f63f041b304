//! Logs: text for a terminal or JSON for machines, always to standard error, and never a secret.

use std::{
    fmt,
    io::{IsTerminal, stderr},
    panic,
};

use tracing::{Event, Subscriber};
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

use crate::{config::LogSettings, trace};

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
    let begun = if settings.json {
        let line = JsonLine(Format::default().json().flatten_event(true));
        registry.with(layer().json().event_format(line).with_writer(stderr)).try_init()
    } else {
        registry.with(layer().with_writer(stderr).with_ansi(stderr().is_terminal())).try_init()
    };
    begun.map_err(|error| error.to_string())?;
    log_panics();
    Ok(())
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
        tracing::error!(location, "panic");
    }));
}
