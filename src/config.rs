//! Settings: defaults, then the environment, then flags. All mistakes are told at once, each with its name and what
//! would be right; what is secret is told never.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use crate::{
    app,
    domain::{
        key_string::{KeyFormat, Prefix},
        secret_hash::Profile,
    },
    store::Address,
    telemetry::settings::{self as telemetry, TelemetrySettings},
    tls::Files,
};

mod tls;
mod unknown;

/// Settings of the server, as flags or as `CLAVIGER_*` in the environment.
#[derive(Args, Clone, Default)]
#[allow(clippy::doc_markdown, reason = "these comments are the --help, which shows no markup")]
#[command(next_help_heading = "Settings")]
pub struct SettingsArgs {
    /// Where to serve gRPC [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS:PORT", env = "CLAVIGER_LISTEN", hide_env_values = true)]
    listen: Option<String>,

    /// Where to serve probes and metrics over plain HTTP: /livez, /readyz and /metrics [default: 127.0.0.1:50052]
    #[arg(long, value_name = "ADDRESS:PORT", env = "CLAVIGER_OPS_LISTEN", hide_env_values = true)]
    ops_listen: Option<String>,

    /// The folder of the embedded database, its root secrets and the administrator's key [default: ./data]
    #[arg(long, value_name = "FOLDER", env = "CLAVIGER_DATA_DIR", hide_env_values = true)]
    data_dir: Option<String>,

    /// The database: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE [default: claviger.db in the data folder]
    #[arg(long, value_name = "URL", env = "CLAVIGER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,

    /// The folder of root secrets, one file each, named by one character [default: root-secrets in the data folder]
    #[arg(long, value_name = "FOLDER", env = "CLAVIGER_ROOT_SECRETS", hide_env_values = true)]
    root_secrets: Option<String>,

    /// A file with the key string of the first administrator, made by `claviger bootstrap --offline`
    #[arg(long, value_name = "FILE", env = "CLAVIGER_BOOTSTRAP_KEY_FILE", hide_env_values = true)]
    bootstrap_key_file: Option<String>,

    /// What new key strings begin with [default: clv]
    #[arg(long, value_name = "PREFIX", env = "CLAVIGER_KEY_PREFIX", hide_env_values = true)]
    key_prefix: Option<String>,

    /// Older prefixes that are still accepted, separated by commas
    #[arg(long, value_name = "PREFIX,…", env = "CLAVIGER_ACCEPTED_KEY_PREFIXES", hide_env_values = true)]
    accepted_key_prefixes: Option<String>,

    /// How secrets are hashed: random256 or owasp [default: random256]
    #[arg(long, value_name = "PROFILE", env = "CLAVIGER_HASH_PROFILE", hide_env_values = true)]
    hash_profile: Option<String>,

    /// How long deleted keys are kept, from 1h to 3650d [default: 30d]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_PURGE_AFTER", hide_env_values = true)]
    purge_after: Option<String>,

    /// Connections for reading, 2 to 200; on PostgreSQL half as many more for changes [default: 8]
    #[arg(long, value_name = "NUMBER", env = "CLAVIGER_DATABASE_CONNECTIONS", hide_env_values = true)]
    database_connections: Option<String>,

    /// Calls worked on at once, 1 to 100000; more are refused [default: 2048]
    #[arg(long, value_name = "NUMBER", env = "CLAVIGER_MAX_CALLS", hide_env_values = true)]
    max_calls: Option<String>,

    /// Connections of clients at once, 8 to 1000000; when all places are taken, a new connection displaces another [default: 4096, or three quarters of the descriptor limit if that is less]
    #[arg(long, value_name = "NUMBER", env = "CLAVIGER_MAX_CONNECTIONS", hide_env_values = true)]
    max_connections: Option<String>,

    /// How long a shutdown waits for connections to end, 1s to 10m [default: 15s]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_DRAIN_TIMEOUT", hide_env_values = true)]
    drain_timeout: Option<String>,

    /// Whether gRPC reflection is served: on, off or auto, which is on with an embedded database [default: auto]
    #[arg(long, value_name = "WHEN", env = "CLAVIGER_REFLECTION", hide_env_values = true)]
    reflection: Option<String>,

    #[command(flatten)]
    tls: tls::TlsArgs,

    /// How logs are written: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "CLAVIGER_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<String>,

    /// What is logged, in the syntax of tracing's EnvFilter [default: info]
    #[arg(long, value_name = "FILTER", env = "CLAVIGER_LOG", hide_env_values = true)]
    log: Option<String>,
}

/// Settings that were read and are right.
pub struct Settings {
    /// Where to serve gRPC.
    pub listen: SocketAddr,
    /// Where to serve probes and metrics.
    pub ops_listen: SocketAddr,
    /// The data folder, absolute.
    pub data_dir: PathBuf,
    /// The database.
    pub database: Address,
    /// The folder of root secrets, absolute.
    pub root_secrets: PathBuf,
    /// Whether a missing root secret may be made: only in the data folder of an embedded database.
    pub may_make_root_secret: bool,
    /// The first administrator's key string.
    pub bootstrap_key_file: Option<PathBuf>,
    /// Connections to the database.
    pub database_connections: u32,
    /// Calls worked on at once.
    pub max_calls: usize,
    /// Connections of clients at once; none: as many as the descriptor limit allows, and 4,096 at most.
    pub max_connections: Option<usize>,
    /// How long a shutdown waits.
    pub drain_timeout: Duration,
    /// Whether reflection is served.
    pub reflection: bool,
    /// Where telemetry goes.
    pub telemetry: TelemetrySettings,
    /// The files of the certificate; none if plaintext is served.
    pub tls: Option<Files>,
    /// How old a connection gets before its client is asked to make another.
    pub connection_age: Duration,
    /// What the service itself is to know.
    pub app: app::Settings,
}

/// How logs are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// As JSON, for machines.
    pub json: bool,
    /// What is logged.
    pub filter: String,
}

/// One setting that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    setting: &'static str,
    what: String,
}

/// All settings that are wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("one setting is wrong:")?,
            several => write!(f, "{several} settings are wrong:")?,
        }
        self.0.iter().try_for_each(|problem| write!(f, "\n  {} {}", problem.setting, problem.what))
    }
}

impl std::error::Error for Problems {}

const HOUR: Duration = Duration::from_secs(60 * 60);

impl SettingsArgs {
    /// Reads all settings. `environment` is what is set there, `threads` what the machine can run at once.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn read(
        &self,
        environment: &BTreeMap<String, String>,
        threads: usize,
    ) -> Result<(Settings, LogSettings), Problems> {
        let mut reader = Reader::default();
        reader.0.extend(unknown::names(environment.keys()).map(|what| Problem { setting: "the environment", what }));
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let listen = reader.read("CLAVIGER_LISTEN", self.listen.as_ref(), loopback(50051), socket);
        let ops_listen = reader.read("CLAVIGER_OPS_LISTEN", self.ops_listen.as_ref(), loopback(50052), socket);
        let data_dir = reader.read("CLAVIGER_DATA_DIR", self.data_dir.as_ref(), absolute("data"), path);
        let root_secrets =
            reader.read("CLAVIGER_ROOT_SECRETS", self.root_secrets.as_ref(), data_dir.join("root-secrets"), path);
        let embedded = Address::Sqlite(data_dir.join("claviger.db"));
        let database = reader.read("CLAVIGER_DATABASE_URL", self.database_url.as_ref(), embedded, Address::parse);
        let bootstrap_key_file =
            reader.read("CLAVIGER_BOOTSTRAP_KEY_FILE", self.bootstrap_key_file.as_ref(), None, |text| {
                path(text).map(Some)
            });
        let is_embedded = matches!(database, Address::Sqlite(_));
        let key_format = reader.key_format(self);
        let profile = reader.read("CLAVIGER_HASH_PROFILE", self.hash_profile.as_ref(), Profile::default(), |text| {
            Profile::named(text).ok_or_else(|| "is no profile; use random256 or owasp".to_owned())
        });
        let month = HOUR * 24 * 30;
        let purge_after = reader.read("CLAVIGER_PURGE_AFTER", self.purge_after.as_ref(), month, |text| {
            duration(text, HOUR, HOUR * 24 * 3650, "30d, from 1h to 3650d")
        });
        let connections = self.database_connections.as_ref();
        let database_connections =
            reader.read("CLAVIGER_DATABASE_CONNECTIONS", connections, 8, |text| number(text, 2, 200));
        let max_calls =
            reader.read("CLAVIGER_MAX_CALLS", self.max_calls.as_ref(), 2048, |text| number(text, 1, 100_000));
        let max_connections = reader.read("CLAVIGER_MAX_CONNECTIONS", self.max_connections.as_ref(), None, |text| {
            number(text, 8, 1_000_000).map(Some)
        });
        let drain = Duration::from_secs(15);
        let drain_timeout = reader.read("CLAVIGER_DRAIN_TIMEOUT", self.drain_timeout.as_ref(), drain, |text| {
            duration(text, Duration::from_secs(1), Duration::from_secs(600), "15s, from 1s to 10m")
        });
        let reflection = reader.read("CLAVIGER_REFLECTION", self.reflection.as_ref(), is_embedded, |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            "auto" => Ok(is_embedded),
            _ => Err("is none of on, off and auto".to_owned()),
        });
        let tls = self.tls.files(&mut reader, listen);
        let connection_age = self.tls.connection_age(&mut reader);
        let json = reader.read("CLAVIGER_LOG_FORMAT", self.log_format.as_ref(), false, |text| match text {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err("is none of text and json".to_owned()),
        });
        let filter = reader.read("CLAVIGER_LOG", self.log.as_ref(), "info".to_owned(), |text| {
            let filter = tracing_subscriber::EnvFilter::try_new(text);
            filter
                .map(|_| text.to_owned())
                .map_err(|_| "is no filter; write one such as info or claviger=debug".to_owned())
        });
        let (telemetry, wrong) = telemetry::read(environment);
        reader.0.extend(wrong.into_iter().map(|(setting, what)| Problem { setting, what }));
        let settings = Settings {
            listen,
            ops_listen,
            may_make_root_secret: is_embedded && self.root_secrets.is_none(),
            data_dir,
            database,
            root_secrets,
            bootstrap_key_file,
            database_connections,
            max_calls,
            max_connections,
            drain_timeout,
            reflection,
            telemetry,
            tls,
            connection_age,
            app: app::Settings {
                key_format,
                profile,
                purge_after,
                hashing_threads: threads,
                hashing_queue: 1_024,
                max_clock_difference: app::clock_check::MAX_CLOCK_DIFFERENCE,
                freshness: app::freshness::Settings {
                    other_replicas: !is_embedded,
                    ..app::freshness::Settings::default()
                },
            },
        };
        reader.finish((settings, LogSettings { json, filter }))
    }
}

/// Reads settings one by one and remembers what was wrong.
#[derive(Default)]
struct Reader(Vec<Problem>);

impl Reader {
    fn read<T>(
        &mut self,
        setting: &'static str,
        text: Option<&String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        match text.map(|text| parse(text)) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(what)) => {
                self.0.push(Problem { setting, what });
                default
            }
        }
    }

    fn wrong(&mut self, setting: &'static str, what: String) {
        self.0.push(Problem { setting, what });
    }

    fn key_format(&mut self, args: &SettingsArgs) -> KeyFormat {
        let default: Option<Prefix> = None;
        let prefix = self.read("CLAVIGER_KEY_PREFIX", args.key_prefix.as_ref(), default, |text| text.parse().map(Some));
        let older = args.accepted_key_prefixes.as_ref();
        let older = self.read("CLAVIGER_ACCEPTED_KEY_PREFIXES", older, Vec::new(), |text| {
            text.split(',').map(|prefix| prefix.trim().parse()).collect()
        });
        KeyFormat::new(prefix.unwrap_or_default(), older)
    }

    fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(Problems(self.0)) }
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{} is no address with a port; write one such as 127.0.0.1:50051 or [::1]:50051",
            crate::domain::text::quoted(text)
        )
    })
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; name a path or leave it out".to_owned()) } else { Ok(absolute(text)) }
}

fn absolute(path: impl AsRef<Path>) -> PathBuf {
    // Fails only for an empty path or a working folder that is gone; then the path is used as it is.
    std::path::absolute(&path).unwrap_or_else(|_: io::Error| path.as_ref().to_owned())
}

fn duration(text: &str, least: Duration, most: Duration, right: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if (least..=most).contains(&duration) => Ok(duration),
        _ => Err(format!("{} is no duration such as {right}", crate::domain::text::quoted(text))),
    }
}

fn number<T: std::str::FromStr + PartialOrd + fmt::Display + Copy>(text: &str, least: T, most: T) -> Result<T, String> {
    match text.parse() {
        Ok(number) if least <= number && number <= most => Ok(number),
        _ => Err(format!("{} is no number from {least} to {most}", crate::domain::text::quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &SettingsArgs, environment: &[&str]) -> Result<(Settings, LogSettings), Problems> {
        args.read(&environment.iter().map(|name| ((*name).to_owned(), String::new())).collect(), 2)
    }

    #[test]
    fn without_any_setting_the_defaults_of_the_documentation_hold() {
        let (settings, log) = read(&SettingsArgs::default(), &[]).ok().unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(settings.ops_listen.to_string(), "127.0.0.1:50052");
        assert!(settings.data_dir.is_absolute() && settings.data_dir.ends_with("data"));
        assert_eq!(settings.root_secrets, settings.data_dir.join("root-secrets"));
        assert!(matches!(settings.database, Address::Sqlite(path) if path == settings.data_dir.join("claviger.db")));
        assert!(settings.reflection && settings.may_make_root_secret && !log.json);
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_no_password() {
        let text = |text: &str| Some(text.to_owned());
        let args = SettingsArgs {
            listen: text("localhost"),
            ops_listen: text("127.0.0.1:99999"),
            data_dir: text(""),
            database_url: text("oracle://scott:tiger@db/x"),
            key_prefix: text("Acme"),
            accepted_key_prefixes: text("clv,_x"),
            hash_profile: text("md5"),
            purge_after: text("5 parsecs"),
            database_connections: text("1"),
            max_calls: text("-3"),
            max_connections: text("7"),
            drain_timeout: text("0s"),
            reflection: text("yes"),
            log_format: text("xml"),
            log: text("a=b=c"),
            ..SettingsArgs::default()
        };
        let problems = read(
            &args,
            &["CLAVIGER_DATABSE_URL", "CLAVIGER_PORT_80_TCP", "CLAVIGER_OPS_PORT", "CLAVIGER_OPS_SERVICE_HOST", "HOME"],
        )
        .err()
        .unwrap();
        insta::assert_snapshot!(problems, @"
        16 settings are wrong:
          the environment has `CLAVIGER_DATABSE_URL`, which is no setting, perhaps CLAVIGER_DATABASE_URL; `claviger serve --help` lists all
          CLAVIGER_LISTEN `localhost` is no address with a port; write one such as 127.0.0.1:50051 or [::1]:50051
          CLAVIGER_OPS_LISTEN `127.0.0.1:99999` is no address with a port; write one such as 127.0.0.1:50051 or [::1]:50051
          CLAVIGER_DATA_DIR is empty; name a path or leave it out
          CLAVIGER_DATABASE_URL is no database address; write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
          CLAVIGER_KEY_PREFIX `Acme` is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live
          CLAVIGER_ACCEPTED_KEY_PREFIXES `_x` is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live
          CLAVIGER_HASH_PROFILE is no profile; use random256 or owasp
          CLAVIGER_PURGE_AFTER `5 parsecs` is no duration such as 30d, from 1h to 3650d
          CLAVIGER_DATABASE_CONNECTIONS `1` is no number from 2 to 200
          CLAVIGER_MAX_CALLS `-3` is no number from 1 to 100000
          CLAVIGER_MAX_CONNECTIONS `7` is no number from 8 to 1000000
          CLAVIGER_DRAIN_TIMEOUT `0s` is no duration such as 15s, from 1s to 10m
          CLAVIGER_REFLECTION is none of on, off and auto
          CLAVIGER_LOG_FORMAT is none of text and json
          CLAVIGER_LOG is no filter; write one such as info or claviger=debug
        ");
    }

    #[test]
    fn a_database_server_brings_its_own_root_secrets() {
        let args = SettingsArgs { database_url: Some("postgres://a@b/c".to_owned()), ..SettingsArgs::default() };
        let (settings, _) = read(&args, &[]).ok().unwrap();
        assert!(!settings.may_make_root_secret && !settings.reflection);
    }

    #[test]
    fn every_setting_is_a_flag_with_its_name_in_the_environment() {
        let command = SettingsArgs::augment_args(clap::Command::new("test"));
        let names: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        assert_eq!(names, unknown::NAMES);
        assert!(command.get_arguments().all(clap::Arg::is_hide_env_values_set), "--help shows no values");
    }
}
