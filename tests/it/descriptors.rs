//! The descriptors of the process: clients cannot take those that the database and the ops port need, and where there are
//! none left for another reason, the service stays calm.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use claviger::grpc::proto;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::harness::{
    client_of,
    frames::connect_from,
    key_of,
    process::{Program, admin_key, eventually},
};

/// How many descriptors the process may have at its start and later, and how many connections try to take them.
const AT_START: u64 = 256;
const LATER: u64 = 96;
const CONNECTIONS: usize = 180;
const COMPLAINT: &str = "no connection could be accepted";

/// How long the process has run on a processor so far. Its clock ticks a hundred times a second.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_30_without_a_descriptor_left_the_service_stays_calm_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::after(folder.path(), &format!("ulimit -n {AT_START}")).begin().until_serving();
    let client = || client_of(serving.channel(), &admin_key(folder.path()));
    let list = async || client().list(proto::ListRequest::default()).await;
    list().await.unwrap();
    // The number of connections is bounded by the limit that there was at the start.
    let pid = Pid::from_raw(serving.running.pid().try_into().unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(LATER), maximum: Some(AT_START) }).unwrap();

    // Those that say nothing are sent away after a while, and others that wait in line take their places.
    let connections: Vec<_> = (0..CONNECTIONS).filter_map(|_| connect(serving.address)).collect();
    serving.running.wait_until_told(COMPLAINT);
    let (begun, before) = (Instant::now(), processor_time(serving.running.pid()));
    let complaints = || serving.running.told_so_far().matches(COMPLAINT).count();
    let already = complaints();
    eventually("it complains again", async || (complaints() >= already + 2).then_some(())).await;
    let (took, used) = (begun.elapsed(), processor_time(serving.running.pid()).saturating_sub(before));
    assert!(used < took / 2, "{used:?} of processor time in {took:?}");

    let begun = Instant::now();
    drop(connections);
    eventually("it serves again", async || list().await.ok()).await;
    let recovered = begun.elapsed();
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0));
    writeln!(
        std::io::stderr(),
        "no descriptor left: {used:?} of processor time in {took:?}, served again after {recovered:?}"
    )
    .unwrap();
    assert!(recovered < Duration::from_secs(2), "{recovered:?}");
    let lines = ended.stderr.lines().filter(|line| line.contains(COMPLAINT)).count();
    assert!(lines <= usize::try_from(took.as_secs()).unwrap() + 3, "{lines} lines in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_57_idle_connections_leave_the_descriptors_that_the_database_and_the_ops_port_need() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::after(folder.path(), &format!("ulimit -n {AT_START}")).begin().until_serving();
    let admin = admin_key(folder.path());
    let mut idle = Vec::new();
    for number in 0..600_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        // From one address, and from many.
        let from = if number % 2 == 0 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(127, 0, 3 + high, low) };
        idle.push(connect_from(from, serving.address).await);
        if number % 100 == 99 {
            for path in ["/livez", "/readyz", "/metrics"] {
                assert_eq!(serving.ops(path).await.status, 200);
            }
            let create = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
            client_of(serving.channel(), &admin).create(create).await.unwrap();
        }
    }
    let ended = serving.stop();
    assert!(!ended.stderr.contains(COMPLAINT), "{}", ended.stderr);
}
