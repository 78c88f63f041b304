//! The address, the key and what is said when one of them is missing.

use std::{fs, path::Path};

use insta::assert_snapshot;
use tokio::io::AsyncWriteExt;
use tonic::Status;

use super::{KEY, Session};
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, FakeServer, own_api_key},
    },
    grpc::proto::GetResponse,
};

fn whoami() -> Answer {
    Answer::Get(GetResponse { api_key: Some(own_api_key()) })
}

/// Asks `whoami` with the key that `session` finds, and tells what was in the header.
async fn shown_key(session: Session) -> String {
    let (server, address) = FakeServer::start([whoami()]).await;
    let session = Session { address, ..session };
    let ended = session.run(&["whoami"]).await;
    server.calls().pop().map_or_else(|| ended.to_string(), |call| call.authorization)
}

fn with_variables<const N: usize>(variables: [(&'static str, &str); N]) -> Session {
    let variables = variables.into_iter().map(|(name, value)| (name, value.into())).collect();
    Session { variables, ..Session::with("") }
}

fn key_file(folder: &Path, text: impl AsRef<[u8]>, mode: u32) -> String {
    let path = folder.join("key");
    fs::write(&path, text).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_key_is_found_where_it_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let path = key_file(folder.path(), "clv_in_a_file\r\n", 0o600);
    assert_eq!(shown_key(with_variables([("CLAVIGER_KEY", KEY)])).await, "Bearer clv_caller");
    assert_eq!(shown_key(with_variables([("CLAVIGER_KEY_FILE", &path)])).await, "Bearer clv_in_a_file");
    let default = Session { default_key_file: path.clone().into(), ..with_variables([]) };
    assert_eq!(shown_key(default).await, "Bearer clv_in_a_file");

    // What is named on the line goes before the environment, and the environment before the default.
    let (server, address) = FakeServer::start([whoami()]).await;
    Session::with(address).run(&["whoami", "--key-file", &path]).await;
    assert_eq!(server.calls().remove(0).authorization, "Bearer clv_in_a_file");
    let both = Session { default_key_file: path.into(), ..with_variables([("CLAVIGER_KEY", KEY)]) };
    assert_eq!(shown_key(both).await, "Bearer clv_caller");
}

#[tokio::test]
async fn a_missing_key_is_told_with_where_it_was_looked_for() {
    assert_snapshot!(shown_key(with_variables([])).await, @"
    exit 4
    --- stdout
    --- stderr
    error: there is no key to call with
      looked for: --key-file, CLAVIGER_KEY, CLAVIGER_KEY_FILE, /nowhere/data/admin.key
      give one by --key-file FILE or by one of these environment variables; a service on its embedded
      database writes the first administrator's key to admin.key in its data folder
    ");
}

#[tokio::test]
async fn no_other_key_is_taken_for_one_that_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = key_file(folder.path(), "clv_of_the_administrator\n", 0o600);
    let session = |variables| Session { default_key_file: path.clone().into(), variables, ..Session::with("") };
    assert_snapshot!(shown_key(session(with_variables([("CLAVIGER_KEY", "")]).variables)).await, @"
    exit 4
    --- stdout
    --- stderr
    error: CLAVIGER_KEY is empty; it has to hold a key string
    ");
    assert_snapshot!(shown_key(session(with_variables([("CLAVIGER_KEY_FILE", "")]).variables)).await, @"
    exit 4
    --- stdout
    --- stderr
    error: CLAVIGER_KEY_FILE is set and empty
    ");
    assert_snapshot!(shown_key(session(with_variables([("CLAVIGER_KEY_FILE", "/nowhere/key")]).variables)).await, @"
    exit 4
    --- stdout
    --- stderr
    error: the key file /nowhere/key cannot be read: No such file or directory (os error 2)
    ");
    let both = with_variables([("CLAVIGER_KEY", "a"), ("CLAVIGER_KEY_FILE", "b")]);
    assert_snapshot!(shown_key(session(both.variables)).await, @"
    exit 2
    --- stdout
    --- stderr
    error: both CLAVIGER_KEY and CLAVIGER_KEY_FILE are set; unset one, or name a file with --key-file
    ");
}

#[tokio::test]
async fn a_key_file_holds_a_key_string_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (text, what) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (b" clv_secret", "at byte 1;"),
        (b"clv_secret \n", "at byte 11;"),
        (b"clv_secret\n\n", "at byte 11;"),
        (b"clv_secret\xff", "is not text"),
        (&[b'k'; 5000], "is longer than 4096 bytes"),
    ] {
        let path = key_file(folder.path(), text, 0o600);
        let said = shown_key(with_variables([("CLAVIGER_KEY_FILE", &path)])).await;
        assert!(said.starts_with("exit 4\n") && said.contains(what) && !said.contains("clv_secret"), "{said}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_key_file_that_others_can_read_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = key_file(folder.path(), KEY, 0o644);
    let (_server, address) = FakeServer::start([whoami()]).await;
    let ended = Session::with(address).run(&["whoami", "--key-file", &path, "--field", "id"]).await;
    assert_snapshot!(ended.to_string().replace(&path, "[key file]"), @"
    exit 0
    --- stdout
    key_0000000000000000000000
    --- stderr
    warning: other users can read [key file] (mode 644); run: chmod 600 [key file]
    ");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_with_its_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_snapshot!(Session::with(format!("http://{free}")).run(&["whoami"]).await, @"
    exit 5
    --- stdout
    --- stderr
    error: cannot connect to http://[address]: Connection refused (os error 111)
      Is the service running there? `claviger serve` starts it; --addr or CLAVIGER_ADDR names another address.
    ");
}

#[tokio::test]
async fn something_else_at_the_address_is_no_service() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let web_server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    };
    let session = Session::with(address);
    let calls = async { (session.run(&["whoami"]).await, session.run(&["keys", "create"]).await) };
    let (whoami, create) = tokio::select! {
        ended = calls => ended,
        () = web_server => panic!("the web server ended"),
    };
    // What comes after it depends on how far the connection came.
    assert!(whoami.messages.starts_with("error: the connection to http://[address] broke: "), "{whoami}");
    assert_eq!((whoami.exit, create.exit), (Exit::NotNow, Exit::NotNow));
    assert!(create.messages.contains("--request-id"), "{create}");
}

#[tokio::test]
async fn a_service_that_is_silent_is_left() {
    let (_server, address) = FakeServer::start([Answer::Silence]).await;
    assert_snapshot!(Session::with(address).run(&["whoami", "--timeout", "50ms"]).await, @"
    exit 5
    --- stdout
    --- stderr
    error: no answer from http://[address] within 50ms
      code: DEADLINE_EXCEEDED
    ");
}

#[tokio::test]
async fn a_refused_caller_is_told_why() {
    let (_server, address) =
        FakeServer::start([Answer::Refusal(Status::unauthenticated("the key is not known"))]).await;
    assert_snapshot!(Session::with(address).run(&["whoami"]).await, @"
    exit 4
    --- stdout
    --- stderr
    error: the key is not known
      code: UNAUTHENTICATED
    ");
}
