//! One PostgreSQL server for all tests of this process, from the machine's own binaries.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database};

/// Set where a missing PostgreSQL is a failure and not a shorter run.
const REQUIRED: &str = "TEST_REQUIRE_POSTGRES";

/// `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

pub struct Postgres {
    port: u16,
    version: String,
    /// Held open as long as this process lives; the server's guard ends it when this closes.
    _alive: ChildStdin,
}

impl Postgres {
    /// The server, started on first use; none if its binaries are not on this machine.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let binaries = binaries();
                #[expect(clippy::disallowed_methods, reason = "it is for the tests, not for the service")]
                let required = std::env::var_os(REQUIRED).is_some();
                assert!(binaries.is_some() || !required, "{REQUIRED} is set, and there is no PostgreSQL here");
                binaries.map(|binaries| Self::start(&binaries))
            })
            .as_ref()
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// The URL of a new, empty database.
    pub async fn new_database(&self) -> String {
        let name = format!("test_{}_{}", std::process::id(), super::unique());
        let mut options = ConnectOptions::new(self.url("postgres"));
        options.sqlx_logging(false).max_connections(1);
        let server = Database::connect(options).await.unwrap();
        server.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        server.close().await.unwrap();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn start(binaries: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("claviger-postgres-").tempdir().unwrap().keep();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if is_root {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = folder.join("data");
        let command = |program: &str| {
            let mut command = Command::new(binaries.join(program));
            if is_root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = command("initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The guard outlives a test process that is killed: it waits for the end of its standard input.
        let guard = r#""$0" "$@" & server=$!; cat > /dev/null; kill -QUIT $server; wait $server; rm -rf "$GUARDED""#;
        let mut server = Command::new("sh");
        if is_root {
            server.uid(NOBODY).gid(NOBODY);
        }
        let mut server = server
            .arg("-c")
            .arg(guard)
            .arg(binaries.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=600", "-c", "fsync=off"])
            .args(["-c", &format!("port={port}"), "-c", &format!("unix_socket_directories={}", folder.display())])
            .env("GUARDED", &folder)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let alive = server.stdin.take().unwrap();
        wait_until_ready(&binaries.join("pg_isready"), port);
        let version = Command::new(binaries.join("postgres")).arg("--version").output().unwrap().stdout;
        let version = String::from_utf8(version).unwrap().trim().replace("postgres (PostgreSQL)", "PostgreSQL");
        Self { port, version, _alive: alive }
    }
}

/// The folder of the newest server binaries on this machine.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, binaries)| binaries.join("postgres").exists())
        .collect();
    versions.sort_unstable();
    versions.pop().map(|(_, binaries)| binaries).or_else(on_the_path)
}

fn on_the_path() -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v initdb"]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(found.stdout).ok()?.trim());
    let binaries = path.parent()?.to_owned();
    binaries.join("postgres").exists().then_some(binaries)
}

/// Asks until the server answers; a minute is for a machine that is very busy.
fn wait_until_ready(pg_isready: &Path, port: u16) {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        // Waits for an answer itself, up to a second.
        let port = port.to_string();
        let asked = Command::new(pg_isready).args(["-q", "-t", "1", "-h", "127.0.0.1", "-p", &port]).status().unwrap();
        if asked.success() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("PostgreSQL did not come up");
}
