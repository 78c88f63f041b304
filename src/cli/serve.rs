//! `claviger serve`: the service itself.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{deployment::read_settings, exit::Exit};
use crate::{
    clock::{Clock, SystemClock},
    config::{Settings, SettingsArgs},
    launch::{self, Launched},
    server::{
        self, Limits, Listener, ServerSettings, descriptors,
        ops::{Ops, Readiness},
    },
    store::Address,
    telemetry::{Telemetry, log},
    tls::{Certificates, Leaf},
};

/// How often sealed secrets are erased, deleted keys purged and root secrets looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How often the keys of each state are counted.
const CENSUS_INTERVAL: Duration = Duration::from_secs(60);

/// How old a stream of validations gets: clients spread over replicas that came later, and one that lost track begins anew.
const STREAM_AGE: Duration = Duration::from_secs(600);

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: SettingsArgs) -> Exit {
    let (settings, log_settings) = match read_settings(&args) {
        Ok(read) => read,
        Err(exit) => return exit,
    };
    match serve(&settings, log_settings.json).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            log::last_words(|| tracing::error!("{error}"));
            Exit::Fault
        }
    }
}

async fn serve(settings: &Settings, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    // Asked for first: a signal that arrives while starting must not be lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let connections = descriptors::connections(settings.max_connections, descriptors::raise_limit()?)?;
    let certificates = settings.tls.clone().map(|files| Certificates::open(files, SystemClock.now())).transpose()?;
    let certificates = certificates.map(Arc::new);
    // Bound before anything is made: a port that is taken should leave no trace.
    let listener = listen(settings.listen, "CLAVIGER_LISTEN").await?;
    let ops_listener = listen(settings.ops_listen, "CLAVIGER_OPS_LISTEN").await?;
    let ops_address = ops_listener.local_addr()?;
    tracing::debug!(address = %ops_address, "the ops port is open");
    let telemetry = Arc::new(Telemetry::begin(&settings.telemetry, &launch::random_name()?)?);
    let readiness = Arc::new(Readiness::default());
    let ops = Ops::start(ops_listener, Arc::clone(&readiness), Arc::clone(&telemetry));

    let launched = launch::launch(settings, Arc::new(SystemClock)).await?;
    readiness.begin_serving(&launched.app);
    let welcome = Welcome {
        settings,
        launched: &launched,
        address: listener.local_addr()?,
        ops_address,
        certificate: certificates.as_ref().map(|certificates| certificates.leaf()),
        program: &program(),
    };
    if json {
        welcome.log();
    } else {
        log::print(&welcome.to_string());
    }
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("got SIGTERM"),
            _ = interrupt.recv() => tracing::info!("got SIGINT"),
        }
    };
    let server = ServerSettings {
        max_calls: settings.max_calls,
        drain_timeout: settings.drain_timeout,
        reflection: settings.reflection,
        upkeep_interval: UPKEEP_INTERVAL,
        census_interval: Some(CENSUS_INTERVAL),
        short_cut: true,
        traces: telemetry.traces(),
        connection_age: settings.connection_age,
        stream_age: STREAM_AGE,
    };
    let limits = Limits { connections, ..Limits::default() };
    let listener = Listener::from(listener).with_tls(certificates).with_limits(limits);
    let outcome = server::serve(listener, Arc::clone(&launched.app), server, readiness, shutdown).await;
    telemetry.end().await;
    ops.end().await;
    Ok(outcome?)
}

async fn listen(address: SocketAddr, setting: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| format!("{address} cannot be listened on ({setting}): {error}"))
}

/// How this program was called, for lines that can be pasted.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "claviger".to_owned())
}

/// What a start tells whoever started it: where everything is, and what to type next. Never a secret.
struct Welcome<'a> {
    settings: &'a Settings,
    launched: &'a Launched,
    address: SocketAddr,
    ops_address: SocketAddr,
    certificate: Option<Leaf>,
    program: &'a str,
}

impl Welcome<'_> {
    fn log(&self) {
        if let Some(path) = &self.launched.made_root_secret {
            tracing::info!(path = %path.display(), "made a root secret: back it up");
        }
        if let Some(path) = &self.launched.made_admin_key {
            tracing::info!(path = %path.display(), "made the first administrator");
        }
        tracing::info!(address = %self.address, url = self.url(), ops_address = %self.ops_address, "serving");
    }

    fn url(&self) -> String {
        format!("{}://{}", if self.certificate.is_some() { "https" } else { "http" }, self.seen_from_here())
    }

    /// The address by which this machine reaches the service: one that listens everywhere listens on the loopback, too.
    fn seen_from_here(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// What a client needs to trust the certificate.
    fn write_trust(&self, exports: &mut String) -> fmt::Result {
        let Some(Leaf { names, addresses, .. }) = &self.certificate else { return Ok(()) };
        writeln!(exports, "  export CLAVIGER_CA_FILE=ca.pem  # who signed the certificate, unless this machine knows")?;
        // A pattern such as *.example names nobody in particular.
        let is_one = |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        match names.iter().find(is_one).filter(|_| !addresses.contains(&self.seen_from_here().ip())) {
            Some(name) => writeln!(exports, "  export CLAVIGER_SERVER_NAME={name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Welcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, launched, address, ops_address, certificate, program } = self;
        writeln!(f, "\nClaviger serves gRPC on {address}\n")?;
        writeln!(f, "  ops port        http://{ops_address} with /livez, /readyz and /metrics")?;
        if let Address::Sqlite(path) = &settings.database {
            writeln!(f, "  database        {}", path.display())?;
        }
        if let Some(files) = &settings.tls {
            writeln!(f, "  certificate     {}", files.cert.display())?;
        }
        let made = if launched.made_root_secret.is_some() { ", made now: back it up" } else { "" };
        writeln!(f, "  root secrets    {}{made}", settings.root_secrets.display())?;
        let admin_key = settings.data_dir.join("admin.key");
        if admin_key.exists() {
            let made = if launched.made_admin_key.is_some() { ", made now: keep it safe" } else { "" };
            writeln!(f, "  administrator   {}{made}", admin_key.display())?;
        }
        if launched.made_root_secret.is_some() {
            writeln!(f, "\nA database without its root secrets is worthless: back up both, apart from each other.")?;
        }
        writeln!(f, "\nIn another terminal:\n")?;
        let mut exports = String::new();
        if certificate.is_some() || settings.listen.to_string() != "127.0.0.1:50051" {
            writeln!(exports, "  export CLAVIGER_ADDR={}", self.url())?;
        }
        self.write_trust(&mut exports)?;
        if std::path::absolute("data/admin.key").ok().as_ref() != Some(&admin_key) && admin_key.exists() {
            writeln!(exports, "  export CLAVIGER_KEY_FILE={}", admin_key.display())?;
        }
        write!(f, "{exports}")?;
        writeln!(f, "  {program} keys create --merchant acme --name 'first key' --allow-ip 192.0.2.0/24")?;
        writeln!(f, "  {program} keys list\n")
    }
}
