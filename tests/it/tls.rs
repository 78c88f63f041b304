//! TLS: who gets in, and what is said to those who do not.

use std::{fs, path::Path, sync::Arc};

use claviger::grpc::proto::{self, DecisionCode};
use insta::assert_snapshot;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::harness::{
    certificates::{Authority, Issued},
    client_of, key_of,
    process::{Ended, Program, Serving, admin_key, write},
};

/// The real program with a certificate for `keys.example` and 127.0.0.1, and the authority in `ca.pem`.
pub fn serve(folder: &Path, authority: &Authority, issued: &Issued) -> Serving {
    issued.write(folder);
    write(&folder.join("ca.pem"), &authority.pem(), 0o644);
    program(folder).serve()
}

pub fn program(folder: &Path) -> Program {
    Program::new(folder).set("CLAVIGER_TLS_CERT", "tls.crt").set("CLAVIGER_TLS_KEY", "tls.key")
}

/// A channel that trusts `authority`.
pub fn channel(address: std::net::SocketAddr, authority: &Authority) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("keys.example");
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect_lazy()
}

/// The program as a client in `folder`, of the service at `url`.
fn client(folder: &Path, url: &str, words: &[&str]) -> Ended {
    Program::new(folder).set("CLAVIGER_ADDR", url).args(words).run()
}

fn told(ended: &Ended) -> String {
    format!("exit {}\n{}{}", ended.code.unwrap(), ended.stdout, ended.told())
}

/// Shakes hands as a client that asks for these protocols inside of TLS.
pub async fn shake(
    address: std::net::SocketAddr,
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("keys.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_trusts_the_authority_validates_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Test authority");
    let serving = serve(folder.path(), &authority, &authority.issue(&["keys.example", "127.0.0.1"]));
    let mut client = client_of(channel(serving.address, &authority), &admin_key(folder.path()));

    // The key that it calls with is tied to an address: the peer is seen through TLS.
    let mut own = key_of("claviger", &["claviger:validate", "claviger:all-merchants"]);
    own.allowed_ips = vec!["127.0.0.1".into()];
    let request = proto::CreateRequest { api_key: Some(own), ..Default::default() };
    let own = client.create(request).await.unwrap().into_inner().key;
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let key = client.create(request).await.unwrap().into_inner().key;
    let mut service = client_of(channel(serving.address, &authority), &own);
    let request = proto::ValidateRequest { key, ..Default::default() };
    assert_eq!(service.validate(request).await.unwrap().into_inner().code(), DecisionCode::Valid);
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0));
    let fingerprint = ended.told().split_once("sha256=\"").unwrap().1[..64].to_owned();
    assert_snapshot!(ended.told().replace(&fingerprint, "FINGERPRINT"), @r#"
    INFO claviger::tls: serving a certificate until="2040-12-31T00:00:00Z" names=["keys.example"] addresses=[127.0.0.1] sha256="FINGERPRINT"
    INFO claviger::store::schema: migrated the schema from=0 to=4

    Claviger serves gRPC on 127.0.0.1:PORT

      ops port        http://127.0.0.1:PORT with /livez, /readyz and /metrics
      database        FOLDER/data/claviger.db
      certificate     FOLDER/tls.crt
      root secrets    FOLDER/data/root-secrets, made now: back it up
      administrator   FOLDER/data/admin.key, made now: keep it safe

    A database without its root secrets is worthless: back up both, apart from each other.

    In another terminal:

      export CLAVIGER_ADDR=https://127.0.0.1:PORT
      export CLAVIGER_CA_FILE=ca.pem  # who signed the certificate, unless this machine knows
      claviger keys create --merchant acme --name 'first key' --allow-ip 192.0.2.0/24
      claviger keys list

    INFO claviger::cli::serve: got SIGTERM
    INFO claviger::server: shutting down
    INFO claviger::server: stopped
    "#);
}

#[test]
fn a_certificate_for_a_name_is_called_by_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Test authority");
    let serving = serve(folder.path(), &authority, &authority.issue(&["keys.example"]));
    let url = format!("https://{}", serving.address);
    let whoami = ["whoami", "--field", "merchant_username"];
    let wrong_name = client(folder.path(), &url, &[&whoami[..], &["--ca-file", "ca.pem"]].concat());
    assert_snapshot!(told(&wrong_name), @"
    exit 6
    error: the certificate of https://127.0.0.1:PORT is not for 127.0.0.1 but for keys.example
      If that is who you mean, say so with --server-name or CLAVIGER_SERVER_NAME.
    ");
    let named = Program::new(folder.path())
        .set("CLAVIGER_ADDR", &url)
        .set("CLAVIGER_CA_FILE", "ca.pem")
        .set("CLAVIGER_SERVER_NAME", "keys.example")
        .args(&whoami)
        .run();
    assert_snapshot!(told(&named), @"
    exit 0
    claviger
    ");
    assert!(serving.stop().stderr.contains("export CLAVIGER_SERVER_NAME=keys.example\n"));
}

#[test]
fn whoever_cannot_be_trusted_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Test authority");
    let serving = serve(folder.path(), &authority, &authority.issue(&["127.0.0.1"]));
    write(&folder.path().join("other.pem"), &Authority::new("Another").pem(), 0o644);
    let url = format!("https://{}", serving.address);
    let whoami = |more: &[&str]| told(&client(folder.path(), &url, &[&["whoami"], more].concat()));
    assert_snapshot!(whoami(&["--ca-file", "other.pem"]), @"
    exit 6
    error: the certificate of https://127.0.0.1:PORT is signed by nobody who is trusted here
      Those in other.pem did not.
    ");
    // Those whom the machine trusts are those of a file here, so that the test does not depend on the machine.
    let of_the_machine = Program::new(folder.path())
        .set("CLAVIGER_ADDR", &url)
        .set("SSL_CERT_FILE", "other.pem")
        .args(&["whoami"])
        .run();
    assert_snapshot!(told(&of_the_machine), @"
    exit 6
    error: the certificate of https://127.0.0.1:PORT is signed by nobody who is trusted here
      --ca-file or CLAVIGER_CA_FILE names the certificate of who signed it.
    ");

    let expired = tempfile::tempdir().unwrap();
    let serving = serve(expired.path(), &authority, &authority.issue_until(&["127.0.0.1"], 2025));
    serving.running.wait_until_told("has expired");
    let late = client(expired.path(), &format!("https://{}", serving.address), &["whoami", "--ca-file", "ca.pem"]);
    assert_snapshot!(told(&late), @"
    exit 6
    error: the certificate of https://127.0.0.1:PORT has expired: it was good until 2025-12-31T00:00:00Z
      The service needs a new one; or the clock of this machine is wrong.
    ");
    serving.running.wait_until_told("the client hung up in the handshake of TLS; perhaps it does not trust");

    let own = tempfile::tempdir().unwrap();
    let serving = serve(own.path(), &authority, &authority.own());
    let own_of_authority =
        client(own.path(), &format!("https://{}", serving.address), &["whoami", "--ca-file", "ca.pem"]);
    assert_snapshot!(told(&own_of_authority), @"
    exit 6
    error: the certificate of https://127.0.0.1:PORT is not accepted: Other(OtherError(CaUsedAsEndEntity))
      A service needs one of its own, signed by an authority; an authority's own does not do.
    ");
}

#[test]
fn plaintext_where_tls_is_spoken_and_the_reverse_are_told_as_such() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("Test authority"));
    let encrypted = serve(folder.path(), &authority, &authority.issue(&["127.0.0.1"]));
    assert_snapshot!(told(&client(folder.path(), &format!("http://{}", encrypted.address), &["whoami"])), @"
    exit 5
    error: the connection to http://127.0.0.1:PORT broke: TLS is spoken there; write https:// instead of http://
      code: UNAVAILABLE
    ");
    encrypted.running.wait_until_told("the client does not speak TLS; it has to");

    let other = tempfile::tempdir().unwrap();
    let plain = Program::new(other.path()).serve();
    let words = ["whoami", "--ca-file", "ca.pem"];
    fs::copy(folder.path().join("ca.pem"), other.path().join("ca.pem")).unwrap();
    assert_snapshot!(told(&client(other.path(), &format!("https://{}", plain.address), &words)), @"
    exit 5
    error: cannot speak with https://127.0.0.1:PORT: no TLS is spoken there; write http:// instead of https:// if that is right, and know that your key then travels in plaintext
    ");
}

#[test]
fn a_wrong_ca_file_is_told_before_anybody_is_called() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    write(&folder.path().join("data/admin.key"), "clv_caller\n", 0o600);
    let whoami = |url: &str, words: &[&str]| told(&client(folder.path(), url, &[&["whoami"], words].concat()));
    assert_snapshot!(whoami("http://127.0.0.1:1", &["--ca-file", "ca.pem"]), @"
    exit 2
    error: --ca-file or CLAVIGER_CA_FILE is given, but the address begins with http://
      Nothing would be checked and nothing encrypted: write https://, or leave it out.
    ");
    assert_snapshot!(whoami("http://127.0.0.1:1", &["--server-name", "keys.example"]), @"
    exit 2
    error: --server-name or CLAVIGER_SERVER_NAME is given, but the address begins with http://
      Nothing would be checked and nothing encrypted: write https://, or leave it out.
    ");
    assert_snapshot!(whoami("https://127.0.0.1:1", &["--ca-file", "ca.pem"]), @"
    exit 2
    error: the CA file ca.pem cannot be read: No such file or directory (os error 2)
      It has to be PEM, with the certificates of those who sign.
    ");
    write(&folder.path().join("ca.pem"), "no certificate", 0o644);
    assert_snapshot!(whoami("https://127.0.0.1:1", &["--ca-file", "ca.pem"]), @"
    exit 2
    error: the CA file ca.pem holds no certificate
      It has to be PEM, with the certificates of those who sign.
    ");
    write(&folder.path().join("ca.pem"), &Authority::new("Cut").pem()[..200], 0o644);
    assert_snapshot!(whoami("https://127.0.0.1:1", &["--ca-file", "ca.pem"]), @"
    exit 2
    error: the CA file ca.pem is damaged: its PEM cannot be read
      It has to be PEM, with the certificates of those who sign.
    ");
    write(&folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    assert_snapshot!(whoami("https://127.0.0.1:1", &["--ca-file", "ca.pem"]), @"
    exit 2
    error: the CA file ca.pem holds something that is no certificate
      It has to be PEM, with the certificates of those who sign.
    ");
    assert_snapshot!(whoami("https://127.0.0.1:1", &["--server-name", "no name"]), @"
    exit 2
    error: invalid value 'no name' for '--server-name <NAME>': it is no DNS name and no address; write it like keys.example

    For more information, try '--help'.
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_and_1_3_are_spoken_and_http_2_alone_inside() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("Test authority"));
    let serving = serve(folder.path(), &authority, &authority.issue(&["keys.example"]));
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let stream = shake(serving.address, &authority, version, &["http/1.1", "h2"]).await.unwrap();
        let connection = stream.get_ref().1;
        assert_eq!((connection.protocol_version(), connection.alpn_protocol()), (Some(spoken), Some(&b"h2"[..])));

        let other = shake(serving.address, &authority, version, &["http/1.1"]).await;
        // With TLS 1.3 a client learns of it when it reads.
        let refused = match other {
            Err(error) => error,
            Ok(mut stream) => stream.read(&mut [0; 1]).await.unwrap_err(),
        };
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");

        let mut silent = shake(serving.address, &authority, version, &[]).await.unwrap();
        assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}

#[test]
fn wrong_files_refuse_to_start_and_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("tls.key"), "no key", 0o644);
    let ended = program(folder.path()).begin().ended();
    assert_eq!(ended.code, Some(6));
    assert_snapshot!(ended.told(), @"
    ERROR claviger::cli::serve: the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt cannot be read: No such file or directory (os error 2)
      CLAVIGER_TLS_KEY: FOLDER/tls.key can be read by everybody (mode 644); take that away with `chmod o= FILE`
    ");
    assert!(!folder.path().join("data").exists());
}

#[test]
fn plaintext_beyond_the_loopback_has_to_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::new(folder.path()).set("CLAVIGER_LISTEN", "0.0.0.0:0").run();
    assert_eq!(ended.code, Some(2));
    assert_snapshot!(ended.told(), @"
    error: one setting is wrong:
      CLAVIGER_LISTEN is 0.0.0.0:0, which others can reach, and there is no TLS: keys would travel in plaintext. Name a certificate with CLAVIGER_TLS_CERT and CLAVIGER_TLS_KEY; or, where something else encrypts, such as a mesh, say CLAVIGER_PLAINTEXT=anywhere
    ");
    let told = Program::new(folder.path())
        .set("CLAVIGER_LISTEN", "0.0.0.0:0")
        .set("CLAVIGER_OPS_LISTEN", "127.0.0.1:0")
        .set("CLAVIGER_PLAINTEXT", "anywhere")
        .start()
        .until_serving();
    let ended = told.stop();
    assert_eq!(ended.code, Some(0));
    // What can be pasted reaches it from this machine.
    assert!(ended.stderr.contains("export CLAVIGER_ADDR=http://127.0.0.1:"), "{}", ended.stderr);
    let (authority, encrypted) = (Authority::new("Test authority"), tempfile::tempdir().unwrap());
    authority.issue(&["keys.example"]).write(encrypted.path());
    let encrypted = program(encrypted.path())
        .set("CLAVIGER_LISTEN", "0.0.0.0:0")
        .set("CLAVIGER_OPS_LISTEN", "127.0.0.1:0")
        .start()
        .until_serving();
    assert_eq!(encrypted.stop().code, Some(0));
}
