//! The service in a process of its own, to be killed, frozen and started again.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{Outcome, doing};

/// So many lines of a process are kept to show them.
const LINES_KEPT: usize = 200;

/// How to start the service: an executable that knows the command `serve`, and its environment.
#[derive(Clone, Debug)]
pub struct Program {
    executable: PathBuf,
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

/// The service, started.
pub struct Replica {
    child: Child,
    told: watch::Receiver<Told>,
    reaped: bool,
}

/// What it said on standard error.
#[derive(Clone, Debug, Default)]
struct Told {
    address: Option<SocketAddr>,
    lines: Arc<VecDeque<String>>,
    ended: bool,
}

impl Program {
    /// `executable` run in `folder`, with nothing in its environment but what [`Program::set`] puts there.
    pub fn new(executable: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        let program = Self { executable: executable.into(), folder: folder.into(), environment: Vec::new() };
        program.set("CLAVIGER_LISTEN", "127.0.0.1:0").set("CLAVIGER_OPS_LISTEN", "127.0.0.1:0")
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(&self) -> Outcome<Replica> {
        let mut child = Command::new(&self.executable)
            .arg("serve")
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Held by us: see `leash`.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(doing("starting a replica"))?;
        let (tell, told) = watch::channel(Told::default());
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || listen(stderr, &tell));
        }
        Ok(Replica { child, told, reaped: false })
    }
}

impl Replica {
    /// Waits until it serves, and says where.
    ///
    /// # Errors
    /// If it ends before, or takes longer than `patience`; with what it said.
    pub async fn until_serving(&self, patience: Duration) -> Outcome<SocketAddr> {
        let mut told = self.told.clone();
        let serves = told.wait_for(|told| told.address.is_some() || told.ended);
        let address = match tokio::time::timeout(patience, serves).await {
            Ok(Ok(told)) => told.address,
            Ok(Err(_)) | Err(_) => None,
        };
        address.ok_or_else(|| format!("a replica does not serve; it said:\n{}", self.lines()))
    }

    /// The last lines that it said.
    pub fn lines(&self) -> String {
        let told = self.told.borrow();
        told.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Waits until it says a line that holds `what`, or is silent for ever.
    pub async fn until_told(&self, what: &str, patience: Duration) -> bool {
        let mut told = self.told.clone();
        let says = told.wait_for(|told| told.ended || told.lines.iter().any(|line| line.contains(what)));
        matches!(tokio::time::timeout(patience, says).await, Ok(Ok(told)) if !told.ended)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs, frozen or not.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once, as the operating system would: SIGKILL.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reaped = true;
    }

    /// Sends a signal by its name, such as `STOP` and `CONT`.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, name: &str) -> Outcome<()> {
        signal(self.pid(), name)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
        }
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// If it is gone.
pub fn signal(pid: u32, name: &str) -> Outcome<()> {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    let sent = sent.map_err(doing("sending a signal"))?;
    if sent.success() { Ok(()) } else { Err(format!("process {pid} takes no signal {name}")) }
}

fn listen(stderr: impl Read, tell: &watch::Sender<Told>) {
    let mut stream = BufReader::new(stderr);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tell.send_modify(|told| {
            if told.address.is_none() {
                told.address = address_in(&text);
            }
            let lines = Arc::make_mut(&mut told.lines);
            if lines.len() == LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(text);
        });
        line.clear();
    }
    tell.send_modify(|told| told.ended = true);
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let after = line.split_once("serves gRPC on ")?.1;
    after.split_whitespace().next()?.parse().ok()
}
