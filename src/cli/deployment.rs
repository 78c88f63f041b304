//! `claviger migrate` and `claviger bootstrap`: what is done to a deployment beside its service.

use std::{env, io::Write, sync::Arc};

use clap::Args;

use super::exit::Exit;
use crate::{
    app,
    clock::SystemClock,
    config::{LogSettings, Settings, SettingsArgs},
    data_folder,
    domain::{key_string::KeyString, root_secret::RootSecret},
    launch, telemetry,
};

/// How an administrator's key string is made.
#[derive(Args, Debug)]
#[allow(clippy::doc_markdown, reason = "these comments are the --help, which shows no markup")]
#[group(required = true, multiple = false)]
pub struct BootstrapHow {
    /// Make a key string from the root secret alone and print it, alone, to standard output. Put it into a file that
    /// CLAVIGER_BOOTSTRAP_KEY_FILE names: it becomes the first administrator when the service starts on a database that
    /// never had one
    #[arg(long)]
    offline: bool,

    /// Make another administrator, with access to the database and the root secrets, and print its key string, alone, to
    /// standard output. An embedded database has to be stopped for it
    #[arg(long)]
    recover: bool,
}

/// Makes an administrator.
#[derive(Args)]
pub struct BootstrapArgs {
    #[command(flatten)]
    how: BootstrapHow,

    /// With --offline and several root secrets in the folder: the one to use
    #[arg(long, value_name = "K", requires = "offline")]
    root_secret: Option<char>,

    #[command(flatten)]
    settings: SettingsArgs,
}

/// Reads the settings and begins to log; what is wrong is told.
pub(super) fn read_settings(args: &SettingsArgs) -> Result<(Settings, LogSettings), Exit> {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    let environment = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (settings, log) =
        args.read(&environment, threads).map_err(|problems| fail(&problems.to_string(), Exit::Usage))?;
    telemetry::log::begin(&log).map_err(|error| fail(&error, Exit::Fault))?;
    Ok((settings, log))
}

/// Brings the schema of the database up to date.
pub async fn migrate(args: SettingsArgs) -> Exit {
    let settings = match read_settings(&args) {
        Ok((settings, _)) => settings,
        Err(exit) => return exit,
    };
    let migrated = async {
        let (store, _lock) = launch::open_store(&settings).await.map_err(|error| error.to_string())?;
        store.close().await.map_err(|error| error.to_string())
    };
    match migrated.await {
        Ok(()) => {
            tracing::info!(version = crate::migrations::VERSION, "the schema is up to date");
            Exit::Done
        }
        Err(what) => fail(&what, Exit::Fault),
    }
}

/// Makes an administrator's key string and prints it.
pub async fn bootstrap(args: BootstrapArgs) -> Exit {
    let settings = match read_settings(&args.settings) {
        Ok((settings, _)) => settings,
        Err(exit) => return exit,
    };
    let made = if args.how.offline { offline(&settings, args.root_secret) } else { recover(&settings).await };
    match made {
        Ok(key) => match writeln!(std::io::stdout(), "{}", key.reveal()) {
            Ok(()) => Exit::Done,
            Err(error) => fail(&format!("standard output cannot be written: {error}"), Exit::Fault),
        },
        Err(what) => fail(&what, Exit::Fault),
    }
}

fn offline(settings: &Settings, wanted: Option<char>) -> Result<Arc<KeyString>, String> {
    let folder = settings.root_secrets.display();
    let roots = data_folder::read_root_secrets(&settings.root_secrets)
        .map_err(|what| format!("a root secret is wrong:\n  {what}"))?;
    let root: &RootSecret = match (wanted, roots.as_slice()) {
        (Some(wanted), roots) => roots
            .iter()
            .find(|root| root.id().as_char() == wanted)
            .ok_or_else(|| format!("{folder} (CLAVIGER_ROOT_SECRETS) holds no root secret `{wanted}`"))?,
        (None, [only]) => only,
        (None, []) => {
            return Err(format!(
                "{folder} (CLAVIGER_ROOT_SECRETS) holds no root secret; make one with `mkdir -p -m 700 {folder} && (umask \
                 077; openssl rand -hex 32 > {folder}/{})`",
                data_folder::FIRST_ROOT
            ));
        }
        (None, _) => {
            return Err(format!("{folder} holds several root secrets; name the active one with --root-secret"));
        }
    };
    app::offline_key(&settings.app.key_format, root).map(Arc::new).map_err(|error| error.to_string())
}

async fn recover(settings: &Settings) -> Result<Arc<KeyString>, String> {
    let launched = launch::assemble(settings, Arc::new(SystemClock)).await.map_err(|error| error.to_string())?;
    let key = launched.app.bootstrap_recover().await.map_err(|error| error.to_string())?;
    launched.app.store().close().await.map_err(|error| error.to_string())?;
    Ok(key)
}

/// Tells what went wrong.
pub fn fail(what: &str, exit: Exit) -> Exit {
    telemetry::log::print_directly(&format!("error: {what}\n"));
    exit
}
