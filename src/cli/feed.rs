//! `claviger feed`: the feed that replicas follow, and what an operator tells them through it.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};

use super::{deployment::read_settings, exit::Exit};
use crate::{
    clock::{Clock, SystemClock},
    config::{Settings, SettingsArgs},
    database_file::DatabaseLock,
    launch,
    store::{Address, Head, Options, Store, wait_for},
};

/// What to do with the feed.
#[derive(Args)]
pub struct FeedArgs {
    #[command(subcommand)]
    command: FeedCommand,
}

/// See the module.
#[derive(Subcommand)]
enum FeedCommand {
    /// Show the feed's history, its last change, and the lease of the replicas
    Status(Box<SettingsArgs>),
    /// Begin a new history, so that every replica forgets what it remembers
    ///
    /// Part of every restore of the database, and of every change of it by hand. An embedded database has to be stopped
    /// for it; elsewhere it answers when no replica can answer from before it any more.
    NewEpoch(Box<SettingsArgs>),
    /// Accept what the database says about keys that replicas saw revoked
    ///
    /// After a restore, a key that was deleted later than the backup is in the database as it was before; replicas that
    /// saw it deleted refuse it until this is said, or until they are started again.
    Accept(Box<SettingsArgs>),
    /// Set for how long replicas may answer from memory without news from the database
    ///
    /// A longer lease lets them ride out a longer fail-over, and lets each Delete, Rotate and Update wait as much longer.
    /// A shorter one shortens that wait once the longer leases have run out, which this command waits for.
    Lease {
        /// From 500ms to 10s; 1s in a new database
        #[arg(value_name = "DURATION", value_parser = lease)]
        length: Duration,
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },
}

/// Does what `args` say, and tells what came of it.
pub async fn run(args: FeedArgs) -> Exit {
    let (FeedCommand::Status(settings)
    | FeedCommand::NewEpoch(settings)
    | FeedCommand::Accept(settings)
    | FeedCommand::Lease { settings, .. }) = &args.command;
    let settings = match read_settings(settings) {
        Ok((settings, _)) => settings,
        Err(exit) => return exit,
    };
    let done = match args.command {
        FeedCommand::Status(_) => status(&settings).await,
        FeedCommand::NewEpoch(_) => new_epoch(&settings).await,
        FeedCommand::Accept(_) => accept(&settings).await,
        FeedCommand::Lease { length, .. } => set_lease(&settings, length).await,
    };
    match done {
        Ok(told) => match write!(std::io::stdout(), "{told}") {
            Ok(()) => Exit::Done,
            Err(error) => super::deployment::fail(&format!("standard output cannot be written: {error}"), Exit::Fault),
        },
        Err(what) => super::deployment::fail(&what, Exit::Fault),
    }
}

async fn status(settings: &Settings) -> Result<String, String> {
    if let Address::Sqlite(path) = &settings.database
        && !path.exists()
    {
        return Err(format!("there is no database at {} yet", path.display()));
    }
    // Beside a server that runs: nothing is locked and nothing is changed.
    let options = Options { connections: settings.database_connections, ..Options::default() };
    let store = Store::open(&settings.database, options).await.map_err(|error| error.to_string())?;
    store.schema_require().await.map_err(|error| error.to_string())?;
    let head = store.feed_state().await.map_err(|error| error.to_string())?;
    let last = store.feed_last_change().await.map_err(|error| error.to_string())?;
    let Head { revision, lease, wait, accepts, .. } = &head;
    let when = last.and_then(|time| u64::try_from(time.micros()).ok()).map_or_else(
        || "never".to_owned(),
        |micros| humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).to_string(),
    );
    let duration = humantime::format_duration;
    Ok(format!(
        "history:      {}\nlast change:  {}\nchanged:      {when}\nlease:        {}\nenforcement:  {}\naccepted:     {accepts}\n",
        revision.epoch(),
        revision.seq(),
        duration(*lease),
        duration(*wait),
    ))
}

async fn new_epoch(settings: &Settings) -> Result<String, String> {
    let (store, _lock) = opened(settings).await?;
    let epoch = launch::random_name().map_err(|error| error.to_string())?;
    let head = store.feed_new_epoch(&epoch).await.map_err(|error| error.to_string())?;
    wait(settings, head.wait).await;
    Ok(format!("history:  {epoch}\n"))
}

async fn accept(settings: &Settings) -> Result<String, String> {
    let (store, _lock) = opened(settings).await?;
    let head = store.feed_accept().await.map_err(|error| error.to_string())?;
    Ok(format!("accepted:  {}\n", head.accepts))
}

async fn set_lease(settings: &Settings, lease: Duration) -> Result<String, String> {
    let (store, _lock) = opened(settings).await?;
    let wanted = wait_for(lease);
    let set = store.feed_set_lease(lease, wanted).await.map_err(|error| error.to_string())?;
    let mut enforcement = set.wait;
    if wanted < set.wait {
        // Leases that were granted before run as long as they did.
        wait(settings, set.wait).await;
        if store.feed_sink_wait(&set, wanted).await.map_err(|error| error.to_string())? {
            enforcement = wanted;
        } else {
            return Err("the lease was set by somebody else meanwhile; look at `claviger feed status`".to_owned());
        }
    }
    let duration = humantime::format_duration;
    Ok(format!("lease:        {}\nenforcement:  {}\n", duration(lease), duration(enforcement)))
}

/// Opens the database for a change; an embedded one only if no server runs on it.
async fn opened(settings: &Settings) -> Result<(Store, Option<DatabaseLock>), String> {
    launch::open_store(settings).await.map_err(|error| error.to_string())
}

/// Waits until every lease that does not know of what was just done has run out.
#[expect(clippy::disallowed_methods, reason = "it is time itself that is waited for")]
async fn wait(settings: &Settings, wait: Duration) {
    if matches!(settings.database, Address::Sqlite(_)) {
        // Nobody serves it.
        return;
    }
    let due = SystemClock.uptime().after(wait);
    loop {
        let left = due.since(SystemClock.uptime());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// Reads the length of a lease.
fn lease(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(length) if (Duration::from_millis(500)..=Duration::from_secs(10)).contains(&length) => Ok(length),
        _ => Err("no length of a lease; write one from 500ms to 10s, such as 2s".to_owned()),
    }
}
