//! Making keys.

use std::io;

use insta::assert_snapshot;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::Session;
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, Asked, FakeServer, an_api_key},
    },
    grpc::proto::{CreateRequest, CreateResponse, WebhookFormat},
};

/// What a test says instead of a random request id.
const REQUEST_ID: [&str; 2] = ["--request-id", "req-0123456789abcdef"];

fn created() -> Answer {
    Answer::Create(CreateResponse {
        api_key: Some(an_api_key()),
        key: "clv_secret".to_owned(),
        revision: "1.7".to_owned(),
        replayed: false,
    })
}

fn requests(server: &FakeServer) -> Vec<CreateRequest> {
    let only = |asked| if let Asked::Create(request) = asked { request } else { panic!("another question") };
    server.calls().into_iter().map(|call| only(call.asked)).collect()
}

#[tokio::test]
async fn a_new_key_is_shown_with_its_key_string() {
    let (_server, address) = FakeServer::start([created()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create"]).await, @r#"
    exit 0
    --- stdout
    key:               clv_secret
    id:                key_0000000000000000000001
    merchant_username: acme
    display_name:      Shop checkout
    masked_key:        clv_7n42DGM5Tflk9n8mt7Fhc7
    allowed_ips:       203.0.113.7, 198.51.100.0/24
    webhook_format:    SINGLE_JSON
    scopes:            payments:charge, payments:refund
    labels:            team=checkout
    state:             ACTIVE
    disabled:          false
    create_time:       2026-11-23T19:25:00.123456Z
    update_time:       2026-11-23T19:25:00.123456Z
    expire_time:       never
    etag:              "3f"
    revision:          1.7
    replayed:          false
    --- stderr
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    "#);
}

#[tokio::test]
async fn a_new_key_is_shown_to_machines_as_json() {
    let (_server, address) = FakeServer::start([created()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create", "-o", "json"]).await, @r#"
    exit 0
    --- stdout
    {
      "key": "clv_secret",
      "apiKey": {
        "id": "key_0000000000000000000001",
        "merchantUsername": "acme",
        "displayName": "Shop checkout",
        "maskedKey": "clv_7n42DGM5Tflk9n8mt7Fhc7",
        "allowedIps": [
          "203.0.113.7",
          "198.51.100.0/24"
        ],
        "webhookFormat": "WEBHOOK_FORMAT_SINGLE_JSON",
        "scopes": [
          "payments:charge",
          "payments:refund"
        ],
        "labels": {
          "team": "checkout"
        },
        "state": "STATE_ACTIVE",
        "disabled": false,
        "createTime": "2026-11-23T19:25:00.123456Z",
        "updateTime": "2026-11-23T19:25:00.123456Z",
        "etag": "\"3f\""
      },
      "revision": "1.7",
      "replayed": false
    }
    --- stderr
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    "#);
}

#[tokio::test]
async fn the_key_string_alone_goes_to_standard_output() {
    let (_server, address) = FakeServer::start([created()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create", "--field", "key"]).await, @"
    exit 0
    --- stdout
    clv_secret
    --- stderr
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    ");
}

#[tokio::test]
async fn a_key_string_that_nobody_asked_to_see_can_still_be_seen() {
    let (_server, address) = FakeServer::start([created()]).await;
    let line = ["keys", "create", "--field", "id", REQUEST_ID[0], REQUEST_ID[1]];
    assert_snapshot!(Session::with(address).run(&line).await, @"
    exit 0
    --- stdout
    key_0000000000000000000001
    --- stderr
    warning: a key string was made and not shown; within 15 minutes the same command with --field key
      --request-id req-0123456789abcdef shows it, after that nobody can
    ");
}

#[tokio::test]
async fn no_key_is_made_for_a_field_that_does_not_exist() {
    let (server, address) = FakeServer::start([created()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create", "--field", "secret"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: this answer has no field `secret`
      it has: key, id, merchant_username, display_name, masked_key, allowed_ips, denied_ips, webhook_format, scopes, labels, state, disabled, create_time, update_time, not_before_time, expire_time, rotate_time, previous_secret_expire_time, last_used_time, last_used_ip, delete_time, purge_time, delete_reason, etag, revision, replayed
    ");
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn every_flag_is_sent() {
    let (server, address) = FakeServer::start([created()]).await;
    let line = "keys create --merchant acme --name Shop --allow-ip 10.0.0.1 --allow-ip 10.1.0.0/16 --deny-ip 10.1.2.3 \
                --webhook multiple --scope a:b --scope c --label x=1 --label y= --disabled \
                --not-before 2027-01-01T00:00:00Z --ttl 30d";
    let line: Vec<_> = line.split_whitespace().collect();
    assert_eq!(Session::with(address).run(&line).await.exit, Exit::Done);
    let request = requests(&server).remove(0);
    assert_eq!(request.request_id.len(), 32);
    assert_eq!(request.api_key.as_ref().unwrap().webhook_format, i32::from(WebhookFormat::MultipleJson));
    assert_snapshot!(format!("{:#?}", request.api_key.unwrap()), @r#"
    ApiKey {
        id: "",
        merchant_username: "acme",
        display_name: "Shop",
        masked_key: "",
        allowed_ips: [
            "10.0.0.1",
            "10.1.0.0/16",
        ],
        denied_ips: [
            "10.1.2.3",
        ],
        webhook_format: MultipleJson,
        scopes: [
            "a:b",
            "c",
        ],
        labels: {
            "x": "1",
            "y": "",
        },
        state: Unspecified,
        disabled: true,
        create_time: None,
        update_time: None,
        not_before_time: Some(
            Timestamp {
                seconds: 1798761600,
                nanos: 0,
            },
        ),
        expire_time: None,
        ttl: Some(
            Duration {
                seconds: 2592000,
                nanos: 0,
            },
        ),
        rotate_time: None,
        previous_secret_expire_time: None,
        last_used_time: None,
        last_used_ip: "",
        delete_time: None,
        purge_time: None,
        delete_reason: Unspecified,
        etag: "",
    }
    "#);
}

#[tokio::test]
async fn the_caller_and_the_deadline_are_told_on_each_call() {
    let (server, address) = FakeServer::start([created()]).await;
    Session::with(address).run(&["keys", "create", "--timeout", "3s"]).await;
    let call = server.calls().remove(0);
    assert_eq!((call.authorization.as_str(), call.timeout.as_str()), ("Bearer clv_caller", "3000000u"));
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_again_with_the_same_request_id() {
    let lost = Answer::Refusal(Status::unavailable("the database does not answer"));
    let (server, address) = FakeServer::start([lost.clone(), lost, created()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create", "--field", "key"]).await, @"
    exit 0
    --- stdout
    clv_secret
    --- stderr
    note: the outcome is not known (UNAVAILABLE); asking again with the same request id, 1 of 3
    note: the outcome is not known (UNAVAILABLE); asking again with the same request id, 2 of 3
    warning: the key string is shown once and cannot be read again; keep it in a safe place
    ");
    let requests = requests(&server);
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]));
}

#[tokio::test]
async fn patience_ends_with_the_way_to_repeat_safely() {
    let lost = || Answer::Refusal(Status::unknown("the database did not say whether the change was committed"));
    let (server, address) = FakeServer::start([lost(), lost(), lost(), lost(), lost()]).await;
    let line = ["keys", "create", REQUEST_ID[0], REQUEST_ID[1]];
    assert_snapshot!(Session::with(address).run(&line).await, @"
    exit 5
    --- stdout
    --- stderr
    note: the outcome is not known (UNKNOWN); asking again with the same request id, 1 of 3
    note: the outcome is not known (UNKNOWN); asking again with the same request id, 2 of 3
    note: the outcome is not known (UNKNOWN); asking again with the same request id, 3 of 3
    error: the database did not say whether the change was committed
      code: UNKNOWN
      Whether the secret was made is not known. To find out without making a second one, repeat the same
      command within 15 minutes with: --request-id req-0123456789abcdef
    ");
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_does_not_hide_the_doubt() {
    let lost = Answer::Refusal(Status::unavailable("the connection broke"));
    let (_server, address) = FakeServer::start([lost, Answer::Refusal(Status::unauthenticated("who are you"))]).await;
    let ended = Session::with(address).run(&["keys", "create", REQUEST_ID[0], REQUEST_ID[1]]).await;
    assert_eq!(ended.exit, Exit::NotAllowed);
    assert!(ended.messages.contains(REQUEST_ID[1]), "{ended}");
}

#[tokio::test]
async fn a_refusal_is_not_asked_again() {
    let mut details = ErrorDetails::with_error_info("FIELDS_INVALID", "claviger.dev", std::collections::HashMap::new());
    details.add_bad_request_violation("api_key.allowed_ips[0]", "`10.0.0.5/8` has host bits set; write 10.0.0.0/8");
    let refusal = Status::with_error_details(Code::InvalidArgument, "a field is wrong", details);
    let (server, address) = FakeServer::start([Answer::Refusal(refusal)]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "create", "--allow-ip", "10.0.0.5/8"]).await, @"
    exit 3
    --- stdout
    --- stderr
    error: the service refuses the request for one field
      api_key.allowed_ips[0]: `10.0.0.5/8` has host bits set; write 10.0.0.0/8
      reason: FIELDS_INVALID (INVALID_ARGUMENT)
    ");
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn silence_is_waited_for_no_longer_than_the_deadline() {
    let (server, address) = FakeServer::start(std::iter::repeat_n(Answer::Silence, 4)).await;
    let line = ["keys", "create", "--timeout", "50ms", REQUEST_ID[0], REQUEST_ID[1]];
    assert_snapshot!(Session::with(address).run(&line).await, @"
    exit 5
    --- stdout
    --- stderr
    note: the outcome is not known (DEADLINE_EXCEEDED); asking again with the same request id, 1 of 3
    note: the outcome is not known (DEADLINE_EXCEEDED); asking again with the same request id, 2 of 3
    note: the outcome is not known (DEADLINE_EXCEEDED); asking again with the same request id, 3 of 3
    error: no answer from http://[address] within 50ms
      code: DEADLINE_EXCEEDED
      Whether the secret was made is not known. To find out without making a second one, repeat the same
      command within 15 minutes with: --request-id req-0123456789abcdef
    ");
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn a_key_string_that_cannot_be_written_is_not_lost() {
    for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
        let (_server, address) = FakeServer::start([created()]).await;
        let session = Session { output_breaks: Some(kind), ..Session::with(address) };
        let ended = session.run(&["keys", "create", REQUEST_ID[0], REQUEST_ID[1]]).await;
        assert_eq!(ended.exit, Exit::Fault);
        assert!(ended.messages.contains(REQUEST_ID[1]), "{ended}");
    }
}

#[tokio::test]
async fn a_label_is_not_named_twice() {
    let line = ["keys", "create", "--label", "a=1", "--label", "a=2"];
    assert_snapshot!(Session::with("http://127.0.0.1:1").run(&line).await, @"
    exit 2
    --- stdout
    --- stderr
    error: --label names `a` twice
    ");
}
