//! A certificate that changes while the service is in use, as Kubernetes changes it.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use claviger::grpc::proto::{self, DecisionCode};
use tokio::task::JoinSet;
use tokio_rustls::rustls::{
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};
use tonic::Status;

use crate::{
    harness::{
        Client,
        certificates::{Authority, Issued, Mounted},
        client_of,
        process::{Program, Serving, admin_key, eventually, write},
    },
    tls::{channel, shake},
};

/// The certificate that a new connection is shown.
async fn shown(address: SocketAddr, authority: &Authority) -> CertificateDer<'static> {
    let stream = shake(address, authority, &TLS13, &["h2"]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()
}

fn serve(folder: &std::path::Path) -> Serving {
    Program::new(folder).set("CLAVIGER_TLS_CERT", "mounted/tls.crt").set("CLAVIGER_TLS_KEY", "mounted/tls.key").serve()
}

async fn until_shown(serving: &Serving, authority: &Authority, issued: &Issued) {
    eventually("the new certificate is shown", async || {
        (shown(serving.address, authority).await == der(issued)).then_some(())
    })
    .await;
}

/// Calls that are made until told to stop.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    calls: AtomicU64,
    connections: AtomicU64,
}

impl Load {
    async fn validate(&self, client: &mut Client, key: &str) -> Result<(), Status> {
        let request = proto::ValidateRequest { key: key.to_owned(), ..Default::default() };
        let answer = client.validate(request).await?.into_inner();
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!(answer.code(), DecisionCode::Valid);
        Ok(())
    }

    /// On one connection that stays.
    async fn on_one(self: Arc<Self>, mut client: Client, key: String) -> Result<(), Status> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        while !self.stop.load(Ordering::Relaxed) {
            self.validate(&mut client, &key).await?;
        }
        Ok(())
    }

    /// On a new connection each.
    async fn on_many(
        self: Arc<Self>,
        address: SocketAddr,
        authority: Arc<Authority>,
        key: String,
    ) -> Result<(), Status> {
        while !self.stop.load(Ordering::Relaxed) {
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.validate(&mut client_of(channel(address, &authority), &key), &key).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_swapped_under_load_fails_no_call_and_is_shown_to_new_connections() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Arc::new(Authority::new("Test authority")));
    let certificates = [2040, 2041, 2042].map(|year| authority.issue_until(&["keys.example"], year));
    let mut mounted = Mounted::new(&folder.path().join("mounted"), &certificates[0]);
    let serving = serve(folder.path());
    let key = admin_key(folder.path());

    let (load, mut tasks) = (Arc::new(Load::default()), JoinSet::new());
    for _ in 0..4 {
        let client = client_of(channel(serving.address, &authority), &key);
        tasks.spawn(Arc::clone(&load).on_one(client, key.clone()));
    }
    for _ in 0..2 {
        tasks.spawn(Arc::clone(&load).on_many(serving.address, Arc::clone(&authority), key.clone()));
    }
    assert_eq!(shown(serving.address, &authority).await, der(&certificates[0]));
    for newer in &certificates[1..] {
        mounted.swap(newer);
        until_shown(&serving, &authority, newer).await;
    }
    let before = load.calls.load(Ordering::Relaxed);
    eventually("more calls are made on the newest", async || {
        (load.calls.load(Ordering::Relaxed) > before + 100).then_some(())
    })
    .await;
    load.stop.store(true, Ordering::Relaxed);
    let failed = tasks.join_all().await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    let (calls, connections) = (load.calls.load(Ordering::Relaxed), load.connections.load(Ordering::Relaxed));
    writeln!(
        std::io::stderr(),
        "certificate swapped twice under load: {calls} calls on {connections} connections, {} failed",
        failed.len()
    )
    .unwrap();
    assert!(failed.is_empty() && calls > 100, "{calls} calls, failed: {failed:?}");
    assert_eq!(serving.stop().stderr.matches("serving a certificate that has changed").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_raises_an_alarm_and_the_old_one_is_shown_until_a_good_one_comes() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("Test authority"));
    let (old, new) = (authority.issue(&["keys.example"]), authority.issue_until(&["keys.example"], 2040));
    let mut mounted = Mounted::new(&folder.path().join("mounted"), &old);
    let serving = serve(folder.path());
    let measured = async |sample: &str| {
        eventually(sample, || async { serving.ops("/metrics").await.text.contains(sample).then_some(()) }).await;
    };
    measured("claviger_alarms_total{kind=\"certificate_unusable\"} 0\n").await;
    let mut client = client_of(channel(serving.address, &authority), &admin_key(folder.path()));
    client.list(proto::ListRequest::default()).await.unwrap();

    mounted.swap(&Issued { cert: new.cert.clone(), key: old.key.clone() });
    serving.running.wait_until_told("alarm=\"certificate_unusable\"");
    measured("claviger_alarms_total{kind=\"certificate_unusable\"} 1\n").await;
    assert_eq!(shown(serving.address, &authority).await, der(&old));
    client.list(proto::ListRequest::default()).await.unwrap();

    mounted.swap(&new);
    until_shown(&serving, &authority, &new).await;
    measured("claviger_certificate_reloads_total 1\n").await;
    let metrics = serving.ops("/metrics").await.text;
    let days = metrics.lines().find_map(|line| line.strip_prefix("claviger_certificate_days_left ")).unwrap();
    let years = days.parse::<f64>().unwrap() / 365.0;
    // It ends in 2040, and this is after 2025.
    assert!(years > 0.0 && years < 15.0, "{days} days");
    client.list(proto::ListRequest::default()).await.unwrap();
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0));
    let alarms: Vec<_> = ended.stderr.lines().filter(|line| line.contains("alarm=")).collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!(alarms[0].contains("does not belong to the first certificate"), "{alarms:?}");
    for key in [&old.key, &new.key] {
        for line in key.lines() {
            assert!(!ended.stderr.contains(line), "{}", ended.stderr);
        }
    }
}

#[test]
fn a_drain_does_not_wait_for_the_next_look_at_the_files() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("Test authority"));
    authority.issue(&["keys.example"]).write(folder.path());
    write(&folder.path().join("ca.pem"), &authority.pem(), 0o644);
    let serving = crate::tls::program(folder.path()).serve();
    let begun = std::time::Instant::now();
    assert_eq!(serving.stop().code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
