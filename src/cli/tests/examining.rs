//! `claviger doctor`: one key from its making to its end.

use insta::assert_snapshot;
use tonic::{Code, Status};

use super::Session;
use crate::{
    cli::fake_server::{Answer, Asked, FakeServer, an_api_key},
    grpc::proto::{ApiKey, CreateResponse, DecisionCode, DeleteResponse, GetResponse, ValidateResponse},
};

fn own() -> Answer {
    let scopes = vec!["claviger:admin".to_owned()];
    Answer::Get(GetResponse { api_key: Some(ApiKey { id: "key_own".to_owned(), scopes, ..an_api_key() }) })
}

fn created() -> Answer {
    let api_key = Some(ApiKey { scopes: Vec::new(), ..an_api_key() });
    Answer::Create(CreateResponse { api_key, key: "clv_secret".to_owned(), ..CreateResponse::default() })
}

fn decided(code: DecisionCode) -> Answer {
    let valid = code == DecisionCode::Valid;
    Answer::Validate(ValidateResponse { valid, code: code.into(), ..ValidateResponse::default() })
}

fn deleted(enforced: bool) -> Answer {
    Answer::Delete(DeleteResponse { api_key: Some(an_api_key()), enforced, ..DeleteResponse::default() })
}

/// What was asked, in order, by the names of the RPCs.
fn asked(server: &FakeServer) -> Vec<&'static str> {
    let name = |asked| match asked {
        Asked::Create(request) => {
            let key = request.api_key.unwrap();
            assert_eq!((key.display_name.as_str(), key.ttl.unwrap().seconds), ("claviger doctor", 600));
            "create"
        }
        Asked::Get(_) => "get",
        Asked::Delete(request) => {
            assert_eq!(request.id, "key_0000000000000000000001");
            "delete"
        }
        Asked::Validate(request) => {
            assert_eq!(request.key, "clv_secret");
            "validate"
        }
        Asked::List(_) | Asked::Update(_) | Asked::Rotate(_) => "another",
    };
    server.calls().into_iter().map(|call| name(call.asked)).collect()
}

#[tokio::test]
async fn a_service_that_is_well_takes_a_key_from_its_making_to_its_end() {
    let answers = [own(), created(), decided(DecisionCode::Valid), deleted(true), decided(DecisionCode::Deleted)];
    let (server, address) = FakeServer::start(answers).await;
    assert_snapshot!(Session::with(address).run(&["doctor"]).await, @"
    exit 0
    --- stdout
    ok  the service answers; the key you call with is key_own of acme, claviger:admin
    ok  made a key: key_0000000000000000000001 of acme, without scopes
    ok  it is valid
    ok  revoked it
    ok  it is refused
    --- stderr
    ");
    assert_eq!(asked(&server), ["get", "create", "validate", "delete", "validate"]);
}

#[tokio::test]
async fn a_key_that_is_not_valid_is_revoked_all_the_same() {
    let answers = [own(), created(), decided(DecisionCode::Disabled), deleted(true)];
    let (server, address) = FakeServer::start(answers).await;
    assert_snapshot!(Session::with(address).run(&["doctor", "--merchant", "acme"]).await, @"
    exit 1
    --- stdout
    ok  the service answers; the key you call with is key_own of acme, claviger:admin
    ok  made a key: key_0000000000000000000001 of acme, without scopes
    --- stderr
    error: the key that was just made should be VALID, and the service says DISABLED
    ");
    assert_eq!(asked(&server), ["get", "create", "validate", "delete"]);
}

#[tokio::test]
async fn a_key_that_could_not_be_revoked_is_named_with_its_end() {
    let away = || Answer::Refusal(Status::new(Code::Unavailable, "the database is away"));
    let answers = [own(), created(), away(), away()];
    let (server, address) = FakeServer::start(answers).await;
    assert_snapshot!(Session::with(address).run(&["doctor"]).await, @"
    exit 5
    --- stdout
    ok  the service answers; the key you call with is key_own of acme, claviger:admin
    ok  made a key: key_0000000000000000000001 of acme, without scopes
    --- stderr
    error: the database is away
      code: UNAVAILABLE
      Whether the change was made is not known; look at the key before you repeat the command.
      The key key_0000000000000000000001 may be left; it ends by itself 10m after it was made.
    error: the database is away
      code: UNAVAILABLE
    ");
    assert_eq!(asked(&server), ["get", "create", "validate", "delete"]);
}

#[tokio::test]
async fn a_revoked_key_that_is_still_good_is_a_fault() {
    let answers = [own(), created(), decided(DecisionCode::Valid), deleted(true), decided(DecisionCode::Valid)];
    let (_server, address) = FakeServer::start(answers).await;
    assert_snapshot!(Session::with(address).run(&["doctor"]).await, @"
    exit 6
    --- stdout
    ok  the service answers; the key you call with is key_own of acme, claviger:admin
    ok  made a key: key_0000000000000000000001 of acme, without scopes
    ok  it is valid
    ok  revoked it
    --- stderr
    error: the key that was just revoked should be DELETED, and the service says VALID
    ");
}

#[tokio::test]
async fn a_revocation_that_does_not_hold_everywhere_yet_is_told() {
    let answers = [own(), created(), decided(DecisionCode::Valid), deleted(false)];
    let (_server, address) = FakeServer::start(answers).await;
    assert_snapshot!(Session::with(address).run(&["doctor"]).await, @"
    exit 5
    --- stdout
    ok  the service answers; the key you call with is key_own of acme, claviger:admin
    ok  made a key: key_0000000000000000000001 of acme, without scopes
    ok  it is valid
    --- stderr
    error: it is revoked, but is not sure to be refused everywhere
      Every replica refuses it a little later; a longer --timeout waits for that.
    ");
}

#[tokio::test]
async fn steps_have_no_other_form() {
    let (server, address) = FakeServer::start([]).await;
    assert_snapshot!(Session::with(address).run(&["doctor", "-o", "json"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: doctor tells its steps, which have no other form
      leave out --output and --field; the exit code says whether all went well
    ");
    assert!(server.calls().is_empty());
}
