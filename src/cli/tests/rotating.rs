//! New secrets, and the key file that holds the old one.

use std::{fs, path::Path};

use insta::assert_snapshot;
use tempfile::TempDir;
use tonic::Status;

use super::{KEY, Session};
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, Asked, FakeServer, an_api_key, own_api_key},
    },
    grpc::proto::{ApiKey, GetResponse, RotateRequest, RotateResponse},
};

const OWN_ID: &str = "key_0000000000000000000000";

fn whoami() -> Answer {
    Answer::Get(GetResponse { api_key: Some(own_api_key()) })
}

fn rotated(api_key: ApiKey) -> Answer {
    Answer::Rotate(RotateResponse {
        api_key: Some(ApiKey { previous_secret_expire_time: Some("2026-11-23T19:40:00Z".parse().unwrap()), ..api_key }),
        key: "clv_new_secret".to_owned(),
        revision: "1.8".to_owned(),
        replayed: false,
        enforced: true,
        enforce_time: Some("2026-11-23T19:25:01Z".parse().unwrap()),
    })
}

fn request(server: &FakeServer) -> RotateRequest {
    let Some(Asked::Rotate(request)) = server.calls().pop().map(|call| call.asked) else { panic!("another question") };
    request
}

/// A folder with a key file of the caller, and a session that finds the key there.
fn with_key_file(address: String) -> (TempDir, Session) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    make_private(&path);
    let session = Session { variables: [].into(), default_key_file: path, ..Session::with(address) };
    (folder, session)
}

fn make_private(path: &Path) {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn without(folder: &TempDir, text: &impl ToString) -> String {
    text.to_string().replace(folder.path().to_str().unwrap(), "[folder]")
}

#[tokio::test]
async fn another_key_gets_a_new_secret() {
    let (server, address) = FakeServer::start([whoami(), rotated(an_api_key())]).await;
    let line = "keys rotate key_0000000000000000000001 --overlap 1h --etag \"1\" --merchant acme";
    let line: Vec<_> = line.split(' ').collect();
    assert_snapshot!(Session::with(address).run(&line).await, @r#"
    exit 0
    --- stdout
    key:                         clv_new_secret
    id:                          key_0000000000000000000001
    merchant_username:           acme
    display_name:                Shop checkout
    masked_key:                  clv_7n42DGM5Tflk9n8mt7Fhc7
    allowed_ips:                 203.0.113.7, 198.51.100.0/24
    webhook_format:              SINGLE_JSON
    scopes:                      payments:charge, payments:refund
    labels:                      team=checkout
    state:                       ACTIVE
    disabled:                    false
    create_time:                 2026-11-23T19:25:00.123456Z
    update_time:                 2026-11-23T19:25:00.123456Z
    expire_time:                 never
    previous_secret_expire_time: 2026-11-23T19:40:00Z
    etag:                        "3f"
    revision:                    1.8
    replayed:                    false
    enforced:                    true
    enforce_time:                2026-11-23T19:25:01Z
    --- stderr
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    "#);
    let request = request(&server);
    assert_eq!((request.overlap.unwrap().seconds, request.request_id.len()), (3600, 32));
    assert_eq!((request.etag.as_str(), request.merchant_username.as_str()), ("\"1\"", "acme"));
}

#[tokio::test]
async fn another_key_gets_no_overlap_that_nobody_asked_for() {
    let (server, address) = FakeServer::start([whoami(), rotated(an_api_key())]).await;
    Session::with(address).run(&["keys", "rotate", "key_0000000000000000000001"]).await;
    assert_eq!(request(&server).overlap, None);
}

#[tokio::test]
async fn rotating_the_own_key_replaces_the_key_file() {
    let (server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
    let (folder, session) = with_key_file(address);
    let ended = session.run(&["keys", "rotate", "self", "--field", "key"]).await;
    assert_snapshot!(without(&folder, &ended), @"
    exit 0
    --- stdout
    clv_new_secret
    --- stderr
    note: this is the key you call with; its old secret will be accepted for 15 minutes (--overlap)
    note: the key file [folder]/admin.key holds the new key string now; the old one is accepted until 2026-11-23T19:40:00Z
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    ");
    let request = request(&server);
    assert_eq!((request.id.as_str(), request.overlap.unwrap().seconds), (OWN_ID, 900));
    assert_eq!(fs::read_to_string(&session.default_key_file).unwrap(), "clv_new_secret\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&session.default_key_file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_new_secret_that_is_in_the_key_file_need_not_be_shown() {
    let (_server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
    let (_folder, session) = with_key_file(address);
    let ended = session.run(&["keys", "rotate", "self", "--field", "id"]).await;
    assert_eq!(ended.output, format!("{OWN_ID}\n"));
    assert!(!ended.messages.contains("warning"), "{ended}");
}

#[tokio::test]
async fn an_overlap_of_the_own_key_that_was_asked_for_is_kept() {
    let (server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
    let (_folder, session) = with_key_file(address);
    let ended = session.run(&["keys", "rotate", OWN_ID, "--overlap", "2h"]).await;
    assert!(!ended.messages.contains("--overlap"), "{ended}");
    assert_eq!(request(&server).overlap.unwrap().seconds, 7200);
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_to_the_key_file_stays_a_link() {
    let (_server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
    let (folder, session) = with_key_file(address);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&session.default_key_file, &link).unwrap();
    let ended = session.run(&["keys", "rotate", OWN_ID, "--key-file", link.to_str().unwrap()]).await;
    assert_eq!(ended.exit, Exit::Done, "{ended}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&session.default_key_file).unwrap(), "clv_new_secret\n");
}

#[tokio::test]
async fn a_new_secret_reaches_its_holder_though_the_key_file_cannot_be_replaced() {
    for (field, shown) in [("key", "clv_new_secret\n"), ("id", "key_0000000000000000000000\nclv_new_secret\n")] {
        let (_server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
        let (folder, mut session) = with_key_file(address);
        // Beside a file of such a name there is no room for a longer one, not even for root.
        let path = folder.path().join("k".repeat(250));
        fs::rename(&session.default_key_file, &path).unwrap();
        session.default_key_file = path;
        let ended = session.run(&["keys", "rotate", OWN_ID, "--field", field]).await;
        assert_eq!((ended.exit, ended.output.as_str()), (Exit::Fault, shown), "{ended}");
        if field == "key" {
            assert_snapshot!(without(&folder, &ended).replace(&"k".repeat(250), "[name]"), @"
            exit 6
            --- stdout
            clv_new_secret
            --- stderr
            note: this is the key you call with; its old secret will be accepted for 15 minutes (--overlap)
            warning: the key string is shown once and cannot be read again; keep it in a safe place
            error: THE KEY FILE [folder]/[name] MAY STILL HOLD THE OLD KEY STRING: it could not be replaced: File name too long (os error 36)
              The new key string was written to standard output; put it into the file yourself.
              The old one is accepted until 2026-11-23T19:40:00Z.
            ");
        }
    }
}

#[tokio::test]
async fn a_key_from_the_environment_cannot_be_replaced_there() {
    let (_server, address) = FakeServer::start([whoami(), rotated(own_api_key())]).await;
    let ended = Session::with(address).run(&["keys", "rotate", "self", "--field", "id"]).await;
    let messages = ended.messages.lines().filter(|line| !line.contains("--request-id"));
    assert_snapshot!(messages.collect::<Vec<_>>().join("\n"), @"
    note: this is the key you call with; its old secret will be accepted for 15 minutes (--overlap)
    warning: CLAVIGER_KEY needs the new key string; the old one is accepted until 2026-11-23T19:40:00Z
    warning: a key string was made and not shown; within 15 minutes the same command with --field key
    ");
}

#[tokio::test]
async fn a_refused_rotation_leaves_the_key_file_alone() {
    let refusal = Answer::Refusal(Status::failed_precondition("the key is expired"));
    let (_server, address) = FakeServer::start([whoami(), refusal]).await;
    let (_folder, session) = with_key_file(address);
    assert_eq!(session.run(&["keys", "rotate", "self"]).await.exit, Exit::Refused);
    assert_eq!(fs::read_to_string(&session.default_key_file).unwrap(), format!("{KEY}\n"));
}
