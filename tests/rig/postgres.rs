//! A PostgreSQL server of one's own, from the machine's own binaries: to be restarted hard, and to follow another one.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Outcome, doing, pace};

/// `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;
/// How long a server may take to come up, on a machine that is very busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, then it shuts down in order.
    Fast,
    /// At once, as after a crash; the next start recovers from the log.
    Immediate,
}

/// One server: a folder, a port, and a process while it runs.
pub struct Server {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    guard: Option<Child>,
}

impl Server {
    /// A new server in `folder`, which is made, with one user and no passwords. It does not run yet.
    ///
    /// # Errors
    /// If there is no PostgreSQL on this machine, or it does not work.
    pub fn new(folder: PathBuf) -> Outcome<Self> {
        let server = Self::vacant(folder)?;
        let data = server.data();
        server.run("initdb", |command| {
            command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"]);
            command.arg(&data);
        })?;
        Ok(server)
    }

    /// A copy of `primary`, which runs: a standby that follows it, named `name` towards it.
    ///
    /// # Errors
    /// What went wrong.
    pub fn following(primary: &Self, folder: PathBuf, name: &str) -> Outcome<Self> {
        let server = Self::vacant(folder)?;
        let (data, port) = (server.data(), primary.port);
        server.run("pg_basebackup", |command| {
            command.args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "--wal-method=stream"]);
            let source = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
            command.args(["--dbname", &source]).arg("--pgdata").arg(&data);
        })?;
        Ok(server)
    }

    fn vacant(folder: PathBuf) -> Outcome<Self> {
        let binaries = binaries().ok_or("there is no PostgreSQL on this machine")?;
        fs::create_dir(&folder).map_err(doing("making a folder"))?;
        if is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).map_err(doing("giving a folder away"))?;
        }
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(doing("finding a port"))?;
        Ok(Self { binaries, folder, port: port.port(), guard: None })
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(&mut self) -> Outcome<()> {
        // The guard outlives a rig that is killed: it waits for the end of its standard input.
        let guard = r#""$0" "$@" & server=$!; cat > /dev/null; kill -QUIT $server 2> /dev/null; wait $server"#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(guard).arg(self.binaries.join("postgres")).arg("-D").arg(self.data());
        // A process that is killed loses nothing that it has written, synced or not: no machine loses its power here.
        for setting in ["listen_addresses=127.0.0.1", "max_connections=300", "fsync=off", "log_min_messages=fatal"] {
            command.args(["-c", setting]);
        }
        // A replica that is frozen or cut off holds locks and slots no longer than need be.
        for setting in ["wal_sender_timeout=5s", "wal_receiver_timeout=5s", "max_standby_streaming_delay=-1"] {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("port={}", self.port)]);
        command.args(["-c", &format!("unix_socket_directories={}", self.folder.display())]);
        as_nobody(&mut command);
        command.current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.guard = Some(command.spawn().map_err(doing("starting PostgreSQL"))?);
        let (pg_isready, port) = (self.binaries.join("pg_isready"), self.port.to_string());
        let answers = || async {
            let asked = Command::new(&pg_isready).args(["-q", "-t", "1", "-h", "127.0.0.1", "-p", &port]).status();
            asked.is_ok_and(|status| status.success()).then_some(())
        };
        pace::until("PostgreSQL answers", PATIENCE, answers).await
    }

    /// Stops it and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or does not stop.
    pub async fn stop(&mut self, how: Stop) -> Outcome<()> {
        let mut guard = self.guard.take().ok_or("PostgreSQL does not run")?;
        let pid_file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(&pid_file).map_err(doing("reading postmaster.pid"))?;
        let pid = text.lines().next().and_then(|line| line.parse().ok()).ok_or("postmaster.pid names no process")?;
        super::replica::signal(pid, if how == Stop::Fast { "INT" } else { "QUIT" })?;
        let is_gone = || async { (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()) };
        // It is a child of the guard, which reaps it once its standard input has ended.
        drop(guard.stdin.take());
        pace::until("PostgreSQL has stopped", PATIENCE, is_gone).await?;
        guard.wait().map(drop).map_err(doing("waiting for PostgreSQL"))
    }

    /// Makes a standby a primary. The old one has to be stopped.
    ///
    /// # Errors
    /// What went wrong.
    pub fn promote(&self) -> Outcome<()> {
        let data = self.data();
        self.run("pg_ctl", |command| {
            command.args(["promote", "--wait", "--timeout=60", "--pgdata"]).arg(&data);
        })
    }

    /// Whether it was started and not stopped.
    pub fn is_running(&self) -> bool {
        self.guard.is_some()
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of it.
    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> Outcome<()> {
        let mut command = Command::new(self.binaries.join(program));
        arguments(&mut command);
        as_nobody(&mut command);
        let output = command.current_dir(&self.folder).stdin(Stdio::null()).output().map_err(doing(program))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{program} failed: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// The URL of a database behind a port of the loopback.
pub fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

/// Whether there is a PostgreSQL on this machine.
pub fn is_there() -> bool {
    binaries().is_some()
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
    versions.pop().map(|(_, binaries)| binaries)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn as_nobody(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}
