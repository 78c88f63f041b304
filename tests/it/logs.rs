//! The log of the real binary when standard error is not read or cannot be written, and when strangers fill it.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, PipeReader, PipeWriter, Write as _},
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use claviger::grpc::proto;
use futures_util::{StreamExt as _, stream};
use tonic::{Code, transport::Endpoint};

use crate::harness::{
    client_of,
    process::{BINARY, PATIENCE, Program, admin_key, eventually, ops},
};

/// `O_NONBLOCK` of Linux.
const NON_BLOCKING: i32 = 0o4000;

/// A pipe that is full and is not read, for as long as the reader is kept.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    // Through a description of its own, or the process under test would get a non-blocking pipe.
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filling = OpenOptions::new().write(true).custom_flags(NON_BLOCKING).open(path).unwrap();
    loop {
        match filling.write(&[b'x'; 4_096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (reader, writer),
            Err(error) => panic!("{error}"),
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The binary, with both outputs going to the same place.
struct Muted {
    child: Child,
    address: SocketAddr,
    ops_address: SocketAddr,
}

impl Muted {
    fn start(folder: &Path, outputs: [Stdio; 2]) -> Self {
        Self::start_at(folder, outputs, free_address())
    }

    fn start_at(folder: &Path, [stdout, stderr]: [Stdio; 2], address: SocketAddr) -> Self {
        let ops_address = free_address();
        let child = Command::new(BINARY)
            .current_dir(folder)
            .env_clear()
            .env("CLAVIGER_LISTEN", address.to_string())
            .env("CLAVIGER_OPS_LISTEN", ops_address.to_string())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, address, ops_address }
    }

    async fn until_ready(&self) {
        eventually("it is ready", async || {
            tokio::net::TcpStream::connect(self.ops_address).await.ok()?;
            (ops(self.ops_address, "/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    fn ended(mut self) -> ExitStatus {
        let (tell, ended) = mpsc::channel();
        let pid = self.child.id();
        thread::spawn(move || tell.send(self.child.wait().unwrap()));
        ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
            panic!("it did not end")
        })
    }

    fn stop(self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        (self.ended(), begun.elapsed())
    }

    /// Makes calls without a key, each of which the log would tell.
    async fn anonymous_calls(&self, calls: usize) {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        anonymous_calls(channel, calls).await;
    }

    async fn goes_on(&self, folder: &Path) {
        self.anonymous_calls(500).await;
        assert_eq!(ops(self.ops_address, "/livez").await.status, 200);
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        client_of(channel, &admin_key(folder)).list(proto::ListRequest::default()).await.unwrap();
    }
}

async fn anonymous_calls(channel: tonic::transport::Channel, calls: usize) {
    let codes: Vec<Code> = stream::iter(0..calls)
        .map(|_| {
            let mut client = proto::api_key_service_client::ApiKeyServiceClient::new(channel.clone());
            async move { client.list(proto::ListRequest::default()).await.unwrap_err().code() }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    assert!(codes.iter().all(|code| *code == Code::Unauthenticated), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_58_a_log_pipe_that_is_not_read_stops_neither_service_nor_probes_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (_unread, full) = full_pipe();
    let outputs = [full.try_clone().unwrap().into(), full.into()];
    let muted = Muted::start(folder.path(), outputs);
    muted.until_ready().await;
    muted.goes_on(folder.path()).await;
    let (status, took) = muted.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_58_logs_on_a_full_disk_stop_nothing_and_what_is_dropped_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let full = || -> Stdio { File::options().write(true).open("/dev/full").unwrap().into() };
    let muted = Muted::start(folder.path(), [full(), full()]);
    muted.until_ready().await;
    muted.goes_on(folder.path()).await;
    let metrics = ops(muted.ops_address, "/metrics").await.text;
    let dropped =
        metrics.lines().find_map(|line| line.strip_prefix("claviger_log_lines_dropped_total{level=\"info\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
    assert_eq!(muted.stop().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_58_the_reason_of_an_exit_on_a_pipe_that_is_not_read_does_not_hold_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_unread, full) = full_pipe();
    let begun = Instant::now();
    let outputs = [full.try_clone().unwrap().into(), full.into()];
    let status = Muted::start_at(folder.path(), outputs, taken.local_addr().unwrap()).ended();
    assert_eq!(status.code(), Some(6));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_59_ten_thousand_unauthenticated_calls_are_summarised() {
    const CALLS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let begun = Instant::now();
    anonymous_calls(serving.channel(), CALLS).await;
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let ended = serving.stop();
    let lines = ended.stderr.lines().filter(|line| line.contains("call failed")).count();
    assert!((1..=seconds + 2).contains(&lines), "{lines} lines in {seconds} s");
    let summarised: usize = ended
        .stderr
        .lines()
        .filter(|line| line.contains("further unauthenticated calls of this peer failed peer=127.0.0.1"))
        .map(|line| line.split_once("failures=").unwrap().1.split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(lines + summarised, CALLS, "{}", ended.stderr);
}
