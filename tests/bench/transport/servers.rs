//! The two servers, each in a process of its own, and how much of the machine they take.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
};

use claviger::grpc::proto;
use prost::Message;

use super::harness::process::{Program, Serving, admin_key};

/// The service itself: the real binary on SQLite, metrics on, one trace in a hundred.
pub struct Real {
    pub serving: Serving,
    /// The first administrator's key string.
    pub admin: String,
    _folder: tempfile::TempDir,
}

/// The bare service: this executable again.
pub struct Bare {
    pub address: SocketAddr,
    child: Child,
    /// It ends when this is closed, so it cannot outlive a bench that was killed.
    _stdin: ChildStdin,
}

/// A server under load.
#[derive(Clone, Copy)]
pub struct Server {
    pub address: SocketAddr,
    pub pid: u32,
}

impl Real {
    pub fn start(collector: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let serving = Program::new(folder.path())
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
            .set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
            .set("OTEL_TRACES_SAMPLER_ARG", "0.01")
            .args(&["serve"])
            .serve();
        Self { serving, admin: admin_key(folder.path()), _folder: folder }
    }

    pub fn server(&self) -> Server {
        Server { address: self.serving.address, pid: self.serving.running.pid() }
    }
}

impl Bare {
    pub fn start(answer: &proto::ValidateResponse) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.arg("bare").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let answer = answer.encode_to_vec();
        stdin.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
        stdin.write_all(&answer).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { address: line.trim_end().parse().unwrap(), child, _stdin: stdin }
    }

    pub fn server(&self) -> Server {
        Server { address: self.address, pid: self.child.id() }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The processor time of each thread of a process so far, in nanoseconds. `/proc/PID/stat` counts in hundredths of a
/// second, too coarse for short rounds.
pub struct Cpu(HashMap<String, u64>);

impl Cpu {
    pub fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let of_one = |thread: fs::DirEntry| {
            // A thread that has ended meanwhile has no file.
            let told = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let spent = told.split(' ').next()?.parse().ok()?;
            Some((thread.file_name().to_string_lossy().into_owned(), spent))
        };
        Self(threads.filter_map(|thread| of_one(thread.ok()?)).collect())
    }

    /// Seconds that the process has spent since.
    pub fn seconds_until(&self, later: &Self) -> f64 {
        let spent = |(thread, after): (&String, &u64)| after.saturating_sub(self.0.get(thread).copied().unwrap_or(0));
        later.0.iter().map(spent).sum::<u64>() as f64 / 1e9
    }
}
