//! Asking whether a key string is good.

use std::fs;

use insta::assert_snapshot;

use super::{Ended, Session};
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, Asked, FakeServer},
    },
    grpc::proto::{DecisionCode, Principal, ValidateRequest, ValidateResponse, WebhookFormat},
};

fn valid() -> ValidateResponse {
    ValidateResponse {
        valid: true,
        code: DecisionCode::Valid.into(),
        principal: Some(Principal {
            key_id: "key_0000000000000000000001".to_owned(),
            merchant_username: "acme".to_owned(),
            scopes: vec!["payments:charge".to_owned()],
            webhook_format: WebhookFormat::SingleJson.into(),
            secret_expire_time: Some("2026-11-23T19:40:00Z".parse().unwrap()),
            ..Principal::default()
        }),
        key_id: "key_0000000000000000000001".to_owned(),
        caller_ip: "203.0.113.7".to_owned(),
        revision: "1.8".to_owned(),
        ..ValidateResponse::default()
    }
}

fn refused(code: DecisionCode) -> ValidateResponse {
    ValidateResponse { code: code.into(), ..ValidateResponse::default() }
}

async fn validate(input: &[u8], flags: &[&str], answer: ValidateResponse) -> (Ended, ValidateRequest) {
    let (server, address) = FakeServer::start([Answer::Validate(answer)]).await;
    let session = Session { input: input.to_vec(), ..Session::with(address) };
    let ended = session.run(&[&["keys", "validate"], flags].concat()).await;
    let Some(Asked::Validate(request)) = server.calls().pop().map(|call| call.asked) else { panic!("{ended}") };
    (ended, request)
}

#[tokio::test]
async fn yes_is_zero() {
    let flags = ["--caller-ip", "::ffff:203.0.113.7", "--scope", "a", "--scope", "b"];
    let (ended, request) = validate(b"clv_test", &flags, valid()).await;
    assert_snapshot!(ended, @"
    exit 0
    --- stdout
    valid:              true
    code:               VALID
    key_id:             key_0000000000000000000001
    caller_ip:          203.0.113.7
    merchant_username:  acme
    scopes:             payments:charge
    webhook_format:     SINGLE_JSON
    expire_time:        never
    secret_expire_time: 2026-11-23T19:40:00Z
    revision:           1.8
    --- stderr
    ");
    assert_eq!(request.caller_ip, "::ffff:203.0.113.7");
    assert_eq!(request.required_scopes, ["a", "b"]);
}

#[tokio::test]
async fn no_is_one() {
    let answer = ValidateResponse {
        missing_scopes: vec!["payments:refund".to_owned()],
        key_id: "key_0000000000000000000001".to_owned(),
        ..refused(DecisionCode::ScopeNotGranted)
    };
    assert_snapshot!(validate(b"clv_test", &[], answer.clone()).await.0, @"
    exit 1
    --- stdout
    valid:          false
    code:           SCOPE_NOT_GRANTED
    key_id:         key_0000000000000000000001
    missing_scopes: payments:refund
    --- stderr
    ");
    assert_snapshot!(validate(b"clv_test", &["-o", "json"], answer).await.0, @r#"
    exit 1
    --- stdout
    {
      "valid": false,
      "code": "DECISION_CODE_SCOPE_NOT_GRANTED",
      "keyId": "key_0000000000000000000001",
      "missingScopes": [
        "payments:refund"
      ]
    }
    --- stderr
    "#);
    let (ended, _) = validate(b"clv_test", &["--field", "code"], refused(DecisionCode::IpNotAllowed)).await;
    assert_eq!((ended.exit, ended.output.as_str()), (Exit::No, "IP_NOT_ALLOWED\n"));
}

#[tokio::test]
async fn whatever_is_not_clearly_yes_is_no() {
    for answer in [
        ValidateResponse { valid: false, ..valid() },
        ValidateResponse { code: 77, ..valid() },
        ValidateResponse { code: 0, ..valid() },
        ValidateResponse::default(),
    ] {
        assert_eq!(validate(b"clv_test", &[], answer).await.0.exit, Exit::No);
    }
}

#[tokio::test]
async fn one_line_end_is_removed_and_nothing_else() {
    for (input, sent) in [
        ("k", "k"),
        ("k\n", "k"),
        ("k\r\n", "k"),
        ("k\n\n", "k\n"),
        ("k\r", "k\r"),
        (" k\t\n", " k\t"),
        ("\u{feff}k\0", "\u{feff}k\0"),
        ("", ""),
        ("\n", ""),
    ] {
        let (_, request) = validate(input.as_bytes(), &[], refused(DecisionCode::Malformed)).await;
        assert_eq!(request.key, sent, "{input:?}");
    }
}

#[tokio::test]
async fn the_key_under_test_comes_from_a_file_or_a_variable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.key");
    fs::write(&path, "clv_in_a_file\n").unwrap();
    let (_, request) = validate(b"other", &["--test-key-file", path.to_str().unwrap()], valid()).await;
    assert_eq!(request.key, "clv_in_a_file");

    let (server, address) = FakeServer::start([Answer::Validate(valid())]).await;
    let mut session = Session { input: b"other".to_vec(), ..Session::with(address) };
    session.variables.insert("CLAVIGER_TEST_KEY", "clv_in_a_variable\n".into());
    let ended = session.run(&["keys", "validate", "--field", "valid"]).await;
    assert_snapshot!(ended, @"
    exit 0
    --- stdout
    true
    --- stderr
    note: the key under test is taken from CLAVIGER_TEST_KEY
    ");
    let Asked::Validate(request) = server.calls().remove(0).asked else { panic!("another question") };
    assert_eq!(request.key, "clv_in_a_variable\n");
}

#[tokio::test]
async fn what_cannot_be_a_request_is_not_sent() {
    let nowhere = Session::with("http://127.0.0.1:1");
    let session = Session { input: vec![0xff], ..nowhere };
    assert_snapshot!(session.run(&["keys", "validate"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: the key under test: standard input is not UTF-8, so it is no key string
    ");
    let session = Session { input: vec![b'k'; 256 * 1024 + 1], ..session };
    assert_snapshot!(session.run(&["keys", "validate"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: the key under test: standard input holds more than 262144 bytes, which no request can carry
    ");
    assert_snapshot!(session.run(&["keys", "validate", "--test-key-file", "/nowhere/test.key"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: the key under test: /nowhere/test.key cannot be read: No such file or directory (os error 2)
    ");
}
