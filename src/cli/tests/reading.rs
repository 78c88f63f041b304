//! Showing keys.

use std::io;

use insta::assert_snapshot;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::Session;
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, Asked, FakeServer, an_api_key, own_api_key},
    },
    grpc::proto::{ApiKey, DeleteReason, GetResponse, ListRequest, ListResponse, State},
};

fn found(api_key: ApiKey) -> Answer {
    Answer::Get(GetResponse { api_key: Some(api_key) })
}

fn page(keys: usize, next_page_token: &str) -> Answer {
    let next_page_token = next_page_token.to_owned();
    Answer::List(ListResponse { api_keys: vec![an_api_key(); keys], next_page_token })
}

fn requests(server: &FakeServer) -> Vec<ListRequest> {
    let only = |asked| if let Asked::List(request) = asked { request } else { panic!("another question") };
    server.calls().into_iter().map(|call| only(call.asked)).collect()
}

#[tokio::test]
async fn a_key_is_a_listing() {
    let (server, address) = FakeServer::start([found(an_api_key())]).await;
    let line = ["keys", "get", "key_0000000000000000000001", "--merchant", "acme"];
    assert_snapshot!(Session::with(address).run(&line).await, @r#"
    exit 0
    --- stdout
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
    --- stderr
    "#);
    let Asked::Get(request) = server.calls().remove(0).asked else { panic!("another question") };
    assert_eq!((request.id.as_str(), request.merchant_username.as_str()), ("key_0000000000000000000001", "acme"));
}

#[tokio::test]
async fn a_deleted_key_is_a_listing_with_its_end() {
    let deleted = ApiKey {
        allowed_ips: Vec::new(),
        denied_ips: vec!["10.0.0.1".to_owned()],
        state: State::Deleted.into(),
        delete_reason: DeleteReason::Compromised.into(),
        delete_time: Some("2026-11-24T00:00:00Z".parse().unwrap()),
        purge_time: Some("2026-12-24T00:00:00Z".parse().unwrap()),
        expire_time: Some("2027-01-01T00:00:00Z".parse().unwrap()),
        ..an_api_key()
    };
    let (_server, address) = FakeServer::start([found(deleted)]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "get", "x"]).await, @r#"
    exit 0
    --- stdout
    id:                key_0000000000000000000001
    merchant_username: acme
    display_name:      Shop checkout
    masked_key:        clv_7n42DGM5Tflk9n8mt7Fhc7
    allowed_ips:       any
    denied_ips:        10.0.0.1
    webhook_format:    SINGLE_JSON
    scopes:            payments:charge, payments:refund
    labels:            team=checkout
    state:             DELETED
    disabled:          false
    create_time:       2026-11-23T19:25:00.123456Z
    update_time:       2026-11-23T19:25:00.123456Z
    expire_time:       2027-01-01T00:00:00Z
    delete_time:       2026-11-24T00:00:00Z
    purge_time:        2026-12-24T00:00:00Z
    delete_reason:     COMPROMISED
    etag:              "3f"
    --- stderr
    "#);
}

#[tokio::test]
async fn a_field_stands_alone() {
    for (field, text) in [
        ("etag", "\"3f\"\n"),
        ("state", "ACTIVE\n"),
        ("allowed_ips", "203.0.113.7, 198.51.100.0/24\n"),
        ("labels", "team=checkout\n"),
        ("disabled", "false\n"),
        ("expire_time", "\n"),
        ("create_time", "2026-11-23T19:25:00.123456Z\n"),
    ] {
        let (_server, address) = FakeServer::start([found(an_api_key())]).await;
        let ended = Session::with(address).run(&["keys", "get", "x", "--field", field]).await;
        assert_eq!((ended.output.as_str(), ended.messages.as_str()), (text, ""), "{field}");
    }
}

#[tokio::test]
async fn whoami_shows_the_key_that_one_calls_with() {
    let (server, address) = FakeServer::start([found(own_api_key())]).await;
    let ended = Session::with(address).run(&["whoami", "--field", "merchant_username"]).await;
    assert_eq!(ended.output, "claviger\n");
    let Asked::Get(request) = server.calls().remove(0).asked else { panic!("another question") };
    assert_eq!(request.id, "self");
}

#[tokio::test]
async fn keys_are_a_table() {
    let (server, address) = FakeServer::start([page(2, "")]).await;
    let line =
        ["keys", "list", "--merchant", "acme", "--state", "active", "--state", "not-yet-valid", "--show-deleted"];
    assert_snapshot!(Session::with(address).run(&line).await, @"
    exit 0
    --- stdout
    API KEY                     ID                          MERCHANT  IP ADDRESSES                  WEBHOOK      STATE   CREATED               LAST USED  EXPIRES
    clv_7n42DGM5Tflk9n8mt7Fhc7  key_0000000000000000000001  acme      203.0.113.7, 198.51.100.0/24  single JSON  ACTIVE  2026-11-23T19:25:00Z  never      never
    clv_7n42DGM5Tflk9n8mt7Fhc7  key_0000000000000000000001  acme      203.0.113.7, 198.51.100.0/24  single JSON  ACTIVE  2026-11-23T19:25:00Z  never      never
    --- stderr
    ");
    assert_snapshot!(format!("{:?}", requests(&server)), @r#"[ListRequest { merchant_username: "acme", states: [Active, NotYetValid], page_size: 1000, page_token: "", show_deleted: true }]"#);
}

#[tokio::test]
async fn keys_are_an_array_for_machines() {
    let unknown = ApiKey { state: 77, display_name: "\u{9b}31m".to_owned(), ..ApiKey::default() };
    let (_server, address) =
        FakeServer::start([Answer::List(ListResponse { api_keys: vec![an_api_key(), unknown], ..Default::default() })])
            .await;
    assert_snapshot!(Session::with(address).run(&["keys", "list", "-o", "json"]).await, @r#"
    exit 0
    --- stdout
    [
      {
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
      {
        "displayName": "\u009b31m",
        "state": 77,
        "disabled": false
      }
    ]
    --- stderr
    "#);
}

#[tokio::test]
async fn a_field_of_each_key_is_a_line_each() {
    let (_server, address) = FakeServer::start([page(2, "")]).await;
    let ended = Session::with(address).run(&["keys", "list", "--field", "merchant_username"]).await;
    assert_eq!(ended.output, "acme\nacme\n");
}

#[tokio::test]
async fn all_pages_are_shown() {
    let (server, address) = FakeServer::start([page(2, "two"), page(0, "three"), page(1, "")]).await;
    let ended = Session::with(address).run(&["keys", "list"]).await;
    assert_eq!(ended.output.lines().count(), 4);
    let tokens: Vec<_> = requests(&server).into_iter().map(|request| (request.page_token, request.page_size)).collect();
    assert_eq!(tokens, [(String::new(), 1000), ("two".to_owned(), 1000), ("three".to_owned(), 1000)]);
}

#[tokio::test]
async fn a_limit_ends_the_listing_and_says_so() {
    let (server, address) = FakeServer::start([page(2, "two"), page(2, "three")]).await;
    let ended = Session::with(address).run(&["keys", "list", "--limit", "3", "--field", "id"]).await;
    assert_snapshot!(ended, @"
    exit 0
    --- stdout
    key_0000000000000000000001
    key_0000000000000000000001
    key_0000000000000000000001
    --- stderr
    note: there are more keys than --limit 3
    ");
    assert_eq!(requests(&server)[0].page_size, 3);
}

#[tokio::test]
async fn no_keys_are_said_to_be_none() {
    let (_server, address) = FakeServer::start([page(0, "")]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "list"]).await, @"
    exit 0
    --- stdout
    API KEY  ID  MERCHANT  IP ADDRESSES  WEBHOOK  STATE  CREATED  LAST USED  EXPIRES
    --- stderr
    note: there are no such keys
    ");
    let (_server, address) = FakeServer::start([page(0, "")]).await;
    assert_eq!(Session::with(address).run(&["keys", "list", "-o", "json"]).await.output, "[]\n");
}

#[tokio::test]
async fn a_service_that_goes_in_circles_is_left() {
    let (_server, address) = FakeServer::start([page(1, "again"), page(1, "again")]).await;
    assert_eq!(Session::with(address).run(&["keys", "list"]).await.exit, Exit::Fault);
}

#[tokio::test]
async fn nothing_is_shown_of_a_listing_that_fails_half_way() {
    let mut details = ErrorDetails::with_error_info("OVERLOADED", "claviger.dev", std::collections::HashMap::new());
    details.set_retry_info(Some(std::time::Duration::from_millis(250)));
    let refusal = Status::with_error_details(Code::ResourceExhausted, "too much work is waiting", details);
    let (_server, address) = FakeServer::start([page(1, "two"), Answer::Refusal(refusal)]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "list"]).await, @"
    exit 5
    --- stdout
    --- stderr
    error: too much work is waiting
      reason: OVERLOADED (RESOURCE_EXHAUSTED)
      ask again after: 250ms
    ");
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly() {
    let (_server, address) = FakeServer::start([page(1, "")]).await;
    let session = Session { output_breaks: Some(io::ErrorKind::BrokenPipe), ..Session::with(address) };
    let ended = session.run(&["keys", "list"]).await;
    assert_eq!((ended.exit, ended.messages.as_str()), (Exit::Done, ""));
}

#[tokio::test]
async fn a_full_disk_does_not() {
    let (_server, address) = FakeServer::start([page(1, "")]).await;
    let session = Session { output_breaks: Some(io::ErrorKind::StorageFull), ..Session::with(address) };
    assert_snapshot!(session.run(&["keys", "list"]).await, @"
    exit 6
    --- stdout
    --- stderr
    error: the answer could not be written to standard output: no storage space
    ");
}
