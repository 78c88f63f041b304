//! From settings to a service that is ready to serve: the database opened and migrated, the root secrets read, the first
//! administrator made.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{TryRng, rngs::SysRng};

use crate::{
    app::App,
    clock::Clock,
    config::Settings,
    data_folder,
    database_file::{self, DatabaseLock},
    domain::{CredentialId, Error, error::Unavailable, key_string::KeyString, root_secret::Key},
    store::{Address, Options, Store},
};

/// How often the first administrator is tried to be made while other replicas try the same.
const ATTEMPTS: u32 = 5;

/// Why the service could not be put together, in words for the operator.
#[derive(Debug)]
pub struct LaunchError(String);

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LaunchError {}

impl From<String> for LaunchError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A service that is ready, and what was made for it.
pub struct Launched {
    /// The service.
    pub app: Arc<App>,
    /// The root secret that was made now.
    pub made_root_secret: Option<PathBuf>,
    /// The administrator's key that was made now.
    pub made_admin_key: Option<PathBuf>,
    /// Held as long as an embedded database is in use.
    pub lock: Option<DatabaseLock>,
}

/// Where an embedded first start leaves the administrator's key.
fn admin_key(settings: &Settings) -> PathBuf {
    settings.data_dir.join("admin.key")
}

/// Opens the database and brings its schema up to date.
///
/// # Errors
/// What the operator has to put right.
pub async fn open_store(settings: &Settings) -> Result<(Store, Option<DatabaseLock>), LaunchError> {
    let lock = match &settings.database {
        Address::Sqlite(path) => {
            let (admin_key, bootstrap) = (admin_key(settings), settings.bootstrap_key_file.as_ref());
            let roots = bootstrap.is_none().then_some(settings.root_secrets.as_path());
            let admin_key = (bootstrap != Some(&admin_key)).then_some(admin_key);
            database_file::require_first_start(path, admin_key.as_deref(), roots)?;
            Some(database_file::lock(path)?)
        }
        Address::Postgres(_) => None,
    };
    let options = Options { connections: settings.database_connections, ..Options::default() };
    let store = Store::open(&settings.database, options).await.map_err(|error| told("opening the database", &error))?;
    if let Some(lock) = &lock {
        lock.require_same_file()?;
    }
    store.schema_migrate().await.map_err(|error| told("migrating the database", &error))?;
    store.require_same_files()?;
    Ok((store, lock))
}

/// Puts the service together, without an administrator.
///
/// # Errors
/// What the operator has to put right.
pub async fn assemble(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Launched, LaunchError> {
    let (store, lock) = open_store(settings).await?;
    let mut roots = data_folder::read_root_secrets(&settings.root_secrets)
        .map_err(|what| format!("a root secret is wrong:\n  {what}"))?;
    let is_new = store.root_secret_list().await.map_err(|error| told("reading the database", &error))?.is_empty();
    let mut made_root_secret = None;
    if roots.is_empty() && is_new && settings.may_make_root_secret {
        let mut bytes = Key::default();
        SysRng.try_fill_bytes(bytes.as_mut()).map_err(|error| format!("there is no randomness: {error}"))?;
        made_root_secret = Some(data_folder::make_root_secret(&settings.root_secrets, &bytes)?);
        roots = data_folder::read_root_secrets(&settings.root_secrets)?;
    }
    let epoch = random_name()?;
    store.feed_begin(&epoch).await.map_err(|error| told("writing to the database", &error))?;
    let app = App::start(store, clock, settings.app.clone(), roots).await.map_err(|error| {
        let folder = settings.root_secrets.display();
        match error {
            crate::app::StartError::Database(error) => told("reading the database", &error),
            crate::app::StartError::RootSecret(what) => {
                LaunchError(format!("{what}\n  (CLAVIGER_ROOT_SECRETS is {folder})"))
            }
        }
    })?;
    Ok(Launched { app, made_root_secret, made_admin_key: None, lock })
}

/// Puts the service together and makes the first administrator if there never was one and there is a way to: from the
/// bootstrap file, or on an embedded database into `admin.key`.
///
/// # Errors
/// What the operator has to put right.
pub async fn launch(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Launched, LaunchError> {
    let mut launched = assemble(settings, clock).await?;
    let admin_key = admin_key(settings);
    for attempt in 1..=ATTEMPTS {
        let made = match (&settings.bootstrap_key_file, &settings.database) {
            (Some(file), _) => first_from_file(&launched.app, file).await,
            (None, Address::Sqlite(_)) => first_into_file(&launched.app, &admin_key).await,
            (None, Address::Postgres(_)) => warn_without_administrator(&launched.app).await,
        };
        match made {
            Ok(made) => {
                launched.made_admin_key = (made && settings.bootstrap_key_file.is_none()).then_some(admin_key);
                break;
            }
            Err(Failed::Contended) if attempt < ATTEMPTS => {}
            Err(Failed::Contended) => {
                return Err(LaunchError("other replicas are making the first administrator; start again".to_owned()));
            }
            Err(Failed::Told(error)) => return Err(error),
        }
    }
    Ok(launched)
}

enum Failed {
    Contended,
    Told(LaunchError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(Unavailable::Contended(_)) => Self::Contended,
            error => Self::Told(told("making the first administrator", &error)),
        }
    }
}

async fn first_from_file(app: &Arc<App>, file: &Path) -> Result<bool, Failed> {
    // Once it has done its work the file may go.
    if app.store().bootstrap_is_done().await? {
        return Ok(false);
    }
    let text = data_folder::read_secret_file(file)
        .map_err(|what| Failed::Told(LaunchError(format!("CLAVIGER_BOOTSTRAP_KEY_FILE: {} {what}", file.display()))))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let made = app.bootstrap_from(text.strip_suffix('\r').unwrap_or(text)).await?;
    if made {
        tracing::info!(file = %file.display(), "made the first administrator from the bootstrap file");
    }
    Ok(made)
}

async fn first_into_file(app: &Arc<App>, admin_key: &Path) -> Result<bool, Failed> {
    if let Some(folder) = admin_key.parent() {
        data_folder::make_folder(folder).map_err(|what| Failed::Told(LaunchError(what)))?;
    }
    if app.store().bootstrap_is_done().await? {
        return Ok(false);
    }
    if admin_key.exists() {
        return finish_first_start(app, admin_key).await;
    }
    let keep = |key: &KeyString| data_folder::write_new_key_file(admin_key, key.reveal()).map_err(Error::fault);
    Ok(app.bootstrap_first(keep).await?)
}

/// The file is written before the database commits. Where it is there and the database knows of no administrator, the
/// first start was cut off in between: the key becomes the administrator, and the file stays as it is.
async fn finish_first_start(app: &Arc<App>, admin_key: &Path) -> Result<bool, Failed> {
    let refused = |what: String| Failed::Told(LaunchError(format!("{} {what}", admin_key.display())));
    let text = data_folder::read_secret_file(admin_key).map_err(refused)?;
    let made = app.bootstrap_from(text.trim_end_matches(['\n', '\r'])).await.map_err(|error| {
        match error {
        Error::Invalid(_) => refused(
            "is not a key string of this deployment, and the database never had an administrator. Restore the database \
             and the root secrets that the key was made with; or move the file away, and a new administrator is made"
                .to_owned(),
        ),
        error => error.into(),
    }
    })?;
    if made {
        tracing::info!(file = %admin_key.display(), "finished a first start that was cut off: the key in the file is the administrator");
    }
    Ok(made)
}

async fn warn_without_administrator(app: &Arc<App>) -> Result<bool, Failed> {
    if !app.store().bootstrap_is_done().await? {
        tracing::warn!(
            "this database never had an administrator: set CLAVIGER_BOOTSTRAP_KEY_FILE to a file made by `claviger \
             bootstrap --offline`, or run `claviger bootstrap --recover`"
        );
    }
    Ok(false)
}

/// 22 random characters: the name of a history, or of a process.
///
/// # Errors
/// Those of the random generator.
pub fn random_name() -> Result<String, LaunchError> {
    let mut bytes = [0_u8; 16];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| format!("there is no randomness: {error}"))?;
    Ok(CredentialId::from_bytes(bytes).to_string())
}

/// An error with its causes, for the terminal of whoever started the program. The address of the database is not in it.
fn told(doing: &str, error: &Error) -> LaunchError {
    // What a caller is told of a fault, that the log tells more, is of no use in the log.
    let first: &dyn std::error::Error = match error {
        Error::Fault(cause) => cause.as_ref(),
        error => error,
    };
    let mut text = format!("{doing}: {first}");
    let mut next = first.source();
    let mut last = String::new();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // A wrapper often repeats what it wraps.
        if !last.contains(&cause_text) {
            text.push_str("\n  ");
            text.push_str(&cause_text);
            last = cause_text;
        }
        next = cause.source();
    }
    LaunchError(text)
}
