//! Logs: text for a terminal or JSON for machines, always to standard error, and never a secret.

use std::{
    io::{IsTerminal, stderr},
    panic,
};

use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::LogSettings;

/// Libraries that print headers or statements when asked for their details. They are not asked, whatever the filter; what
/// they tell of their own accord below a warning (a migration, a notice of the database) helps nobody either.
const DISCREET: [&str; 8] = ["h2", "hyper", "hyper_util", "tower", "tonic", "sqlx", "sea_orm", "sea_orm_migration"];

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
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal())).try_init()
    };
    begun.map_err(|error| error.to_string())?;
    log_panics();
    Ok(())
}

/// Logs where a panic was, but not what it says: the standard library's own messages quote the text at hand, which could
/// hold a secret.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
}
