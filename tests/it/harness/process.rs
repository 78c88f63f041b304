//! The real binary, in a process of its own with a folder of its own and nothing else in its environment.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use claviger::grpc::proto::api_key_service_client::ApiKeyServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Channel, Endpoint};

use super::{Bearer, Client};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_claviger");

/// How long a test waits for what has to come: long, for machines that are very busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The binary, yet to be started.
pub struct Program {
    folder: PathBuf,
    command: Command,
}

/// The binary, started.
pub struct Running {
    folder: PathBuf,
    pid: u32,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    ended: mpsc::Receiver<ExitStatus>,
    reaped: bool,
}

/// The binary, serving.
pub struct Serving {
    pub running: Running,
    pub address: SocketAddr,
    pub ops_address: SocketAddr,
}

/// What the ops port answered.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub text: String,
}

/// Asks an ops port, as curl would.
pub async fn ops(address: SocketAddr, path: &str) -> Answer {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), text: text.to_owned() }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    folder: PathBuf,
}

#[derive(Default)]
struct Output {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

impl Program {
    /// Runs in `folder`, so that its `./data` is there.
    pub fn new(folder: &Path) -> Self {
        Self::of(folder, Command::new(BINARY))
    }

    /// Runs after `shell` did something to the process, such as set a limit.
    pub fn after(folder: &Path, shell: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell}; exec \"$0\" \"$@\""), BINARY]);
        Self::of(folder, command)
    }

    /// Runs among mounts of its own, after `shell` made them. None where the system does not permit that.
    pub fn among_mounts(folder: &Path, shell: &str) -> Option<Self> {
        let permitted = Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
        if !permitted {
            let skipped = "skipped: this system does not permit `unshare -m`\n";
            std::io::Write::write_all(&mut std::io::stderr(), skipped.as_bytes()).unwrap();
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", &format!("{shell}; exec \"$0\" \"$@\""), BINARY]);
        Some(Self::of(folder, command))
    }

    fn of(folder: &Path, mut command: Command) -> Self {
        command.current_dir(folder).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { folder: folder.to_owned(), command }
    }

    pub fn set(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.command.env(name, value.as_ref());
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let stdout = Output::of(child.stdout.take().unwrap());
        let stderr = Output::of(child.stderr.take().unwrap());
        let pid = child.id();
        let (tell, ended) = mpsc::channel();
        thread::spawn(move || {
            // A test that has failed listens no more.
            let _ = tell.send(child.wait().unwrap());
        });
        Running { folder: self.folder, pid, stdout, stderr, ended, reaped: false }
    }

    /// Runs to the end.
    pub fn run(self) -> Ended {
        self.start().ended()
    }

    /// Begins to serve on a port that is free.
    pub fn serve(self) -> Serving {
        self.begin().until_serving()
    }

    /// As [`Program::serve`], without waiting until it does.
    pub fn begin(self) -> Running {
        self.set("CLAVIGER_LISTEN", "127.0.0.1:0").set("CLAVIGER_OPS_LISTEN", "127.0.0.1:0").start()
    }
}

impl Running {
    pub fn until_serving(self) -> Serving {
        let (address, ops_address) = self.wait_for("it serves", |text| {
            let after = |mark: &str, end: char| Some(text.split_once(mark)?.1.split_once(end)?.0.parse().unwrap());
            let address = after("serves gRPC on ", '\n').or_else(|| after("\"address\":\"", '"'))?;
            let ops_address = after("ops port        http://", ' ').or_else(|| after("\"ops_address\":\"", '"'))?;
            Some((address, ops_address))
        });
        Serving { running: self, address, ops_address }
    }

    /// Waits until standard error says what `find` finds.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.stderr.wait_for(what, find)
    }

    /// Waits until standard error says so.
    pub fn wait_until_told(&self, what: &str) {
        self.stderr.wait_for(what, |text| text.contains(what).then_some(()));
    }

    /// What standard error has said so far.
    pub fn told_so_far(&self) -> String {
        self.stderr.so_far()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end.
    pub fn ended(mut self) -> Ended {
        let status = self.ended.recv_timeout(PATIENCE);
        let status = status.unwrap_or_else(|_| panic!("it did not end, but said:\n{}", self.stderr.so_far()));
        self.reaped = true;
        Ended {
            code: status.code(),
            stdout: self.stdout.to_the_end(),
            stderr: self.stderr.to_the_end(),
            folder: self.folder.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whatever the test found missing, the process may have said why.
            let told = format!("what the process of the failed test said:\n{}\n", self.told_so_far());
            std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap_or_default();
        }
        if !self.reaped && self.ended.try_recv().is_err() {
            self.signal("KILL");
        }
    }
}

impl Serving {
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// Asks the ops port.
    pub async fn ops(&self, path: &str) -> Answer {
        ops(self.ops_address, path).await
    }

    pub fn client(&self, key: &str) -> Client {
        ApiKeyServiceClient::with_interceptor(self.channel(), Bearer(Some(key.to_owned())))
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(self) -> Ended {
        self.running.signal("TERM");
        self.running.ended()
    }
}

impl Ended {
    /// Standard error without what differs from run to run.
    pub fn told(&self) -> String {
        let text = self.stderr.replace(BINARY, "claviger").replace(self.folder.to_str().unwrap(), "FOLDER");
        text.lines().map(|line| without_time(&without_port(line))).collect::<Vec<_>>().join("\n")
    }
}

fn without_time(line: &str) -> String {
    match line.split_once("Z ") {
        Some((time, rest)) if time.starts_with("20") => rest.trim_start().to_owned(),
        _ => line.to_owned(),
    }
}

/// Ports of this run are those above the ones that have a meaning.
fn without_port(line: &str) -> String {
    let mut parts = line.split("127.0.0.1:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let port = &part[..digits];
        let shown = if ["50051", "50052"].contains(&port) { port } else { "PORT" };
        out.extend(["127.0.0.1:", shown, &part[digits..]]);
    }
    out
}

impl Output {
    fn of(stream: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let writer = Arc::clone(&output);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                writer.text.lock().unwrap().0.push_str(&String::from_utf8_lossy(&line));
                writer.changed.notify_all();
                line.clear();
            }
            writer.text.lock().unwrap().1 = true;
            writer.changed.notify_all();
        });
        output
    }

    fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        loop {
            if let Some(found) = find(&text.0) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!text.1 && !left.is_zero(), "waited in vain until {what}; it said:\n{}", text.0);
            text = self.changed.wait_timeout(text, left).unwrap().0;
        }
    }

    fn to_the_end(&self) -> String {
        let end = Instant::now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        while !text.1 {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the output has no end");
            text = self.changed.wait_timeout(text, left).unwrap().0;
        }
        text.0.clone()
    }

    fn so_far(&self) -> String {
        // Asked for when a wait for it has failed, which poisons the lock.
        self.text.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }
}

/// The permissions of a file.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

/// Writes a file with these permissions.
pub fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The administrator's key string of the embedded set-up in `folder`.
pub fn admin_key(folder: &Path) -> String {
    fs::read_to_string(folder.join("data/admin.key")).unwrap().trim_end().to_owned()
}

/// Waits until `found` finds something; the bound is for machines that are very busy.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut find: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}
