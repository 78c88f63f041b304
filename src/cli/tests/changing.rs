//! Changing and deleting keys.

use insta::assert_snapshot;
use tonic::Status;

use super::Session;
use crate::{
    cli::{
        exit::Exit,
        fake_server::{Answer, Asked, FakeServer, an_api_key},
    },
    grpc::proto::{DeleteRequest, DeleteResponse, UpdateRequest, UpdateResponse},
};

fn updated() -> Answer {
    Answer::Update(UpdateResponse {
        api_key: Some(an_api_key()),
        revision: "1.8".to_owned(),
        enforced: true,
        enforce_time: Some("2026-11-23T19:25:01Z".parse().unwrap()),
    })
}

async fn update(flags: &str) -> UpdateRequest {
    let (server, address) = FakeServer::start([updated()]).await;
    let line: Vec<_> = ["keys", "update", "key_1"].into_iter().chain(flags.split_whitespace()).collect();
    assert_eq!(Session::with(address).run(&line).await.exit, Exit::Done);
    let Asked::Update(request) = server.calls().remove(0).asked else { panic!("another question") };
    request
}

#[tokio::test]
async fn a_change_shows_the_key() {
    let (_server, address) = FakeServer::start([updated()]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "update", "key_1", "--disable"]).await, @r#"
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
    revision:          1.8
    enforced:          true
    enforce_time:      2026-11-23T19:25:01Z
    --- stderr
    "#);
}

#[tokio::test]
async fn only_what_was_named_is_in_the_mask() {
    let request = update("--disable --merchant acme --etag \"1\"").await;
    let (api_key, mask) = (request.api_key.unwrap(), request.update_mask.unwrap());
    assert_eq!(mask.paths, ["disabled"]);
    assert!(api_key.disabled);
    assert_eq!(
        (api_key.id.as_str(), api_key.merchant_username.as_str(), api_key.etag.as_str()),
        ("key_1", "acme", "\"1\"")
    );

    let request = update("--enable").await;
    assert_eq!(request.update_mask.unwrap().paths, ["disabled"]);
    assert!(!request.api_key.unwrap().disabled);
}

#[tokio::test]
async fn every_setting_can_be_changed() {
    let request = update(
        "--name Shop --allow-ip 10.0.0.1 --allow-ip 10.0.0.2 --deny-ip 10.0.0.3 --webhook single --scope a --label a=b \
         --not-before 2027-01-01T00:00:00Z --expires 2028-01-01T00:00:00Z \
         --previous-secret-expires 2026-12-01T00:00:00Z",
    )
    .await;
    assert_snapshot!(request.update_mask.unwrap().paths.join(" "), @"display_name allowed_ips denied_ips webhook_format scopes labels not_before_time expire_time previous_secret_expire_time");
    assert_snapshot!(format!("{:?}", request.api_key.unwrap()), @r#"ApiKey { id: "key_1", merchant_username: "", display_name: "Shop", masked_key: "", allowed_ips: ["10.0.0.1", "10.0.0.2"], denied_ips: ["10.0.0.3"], webhook_format: SingleJson, scopes: ["a"], labels: {"a": "b"}, state: Unspecified, disabled: false, create_time: None, update_time: None, not_before_time: Some(Timestamp { seconds: 1798761600, nanos: 0 }), expire_time: Some(Timestamp { seconds: 1830297600, nanos: 0 }), ttl: None, rotate_time: None, previous_secret_expire_time: Some(Timestamp { seconds: 1796083200, nanos: 0 }), last_used_time: None, last_used_ip: "", delete_time: None, purge_time: None, delete_reason: Unspecified, etag: "" }"#);
    assert_eq!(update("--ttl 1h").await.update_mask.unwrap().paths, ["ttl"]);
}

#[tokio::test]
async fn every_setting_can_be_cleared() {
    let clear = "allow-ip deny-ip scope label name not-before expires previous-secret";
    let flags: Vec<_> = clear.split(' ').map(|name| format!("--clear {name}")).collect();
    let request = update(&flags.join(" ")).await;
    assert_snapshot!(request.update_mask.unwrap().paths.join(" "), @"allowed_ips denied_ips scopes labels display_name not_before_time expire_time previous_secret_expire_time");
    let mut api_key = request.api_key.unwrap();
    assert_eq!(std::mem::take(&mut api_key.id), "key_1");
    assert_eq!(api_key, crate::grpc::proto::ApiKey::default());
}

#[tokio::test]
async fn a_setting_is_not_named_twice() {
    let session = Session::with("http://127.0.0.1:1");
    for flags in ["--allow-ip 1.1.1.1 --clear allow-ip", "--clear name --clear name", "--ttl 1d --clear expires"] {
        let line: Vec<_> = ["keys", "update", "key_1"].into_iter().chain(flags.split(' ')).collect();
        let ended = session.run(&line).await;
        assert_eq!(ended.exit, Exit::Usage, "{ended}");
    }
    assert_snapshot!(session.run(&["keys", "update", "key_1", "--name", "a", "--clear", "name"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: --clear name: the setting is named twice
    ");
    assert_snapshot!(session.run(&["keys", "update", "key_1"]).await, @"
    exit 2
    --- stdout
    --- stderr
    error: there is nothing to change; name a setting, or --clear one
    ");
}

#[tokio::test]
async fn a_deletion_is_shown_and_says_when_it_is_not_yet_enforced() {
    let answer = DeleteResponse {
        api_key: Some(an_api_key()),
        revision: "1.9".to_owned(),
        enforced: false,
        enforce_time: Some("2026-11-23T19:25:02Z".parse().unwrap()),
    };
    let (server, address) = FakeServer::start([Answer::Delete(answer)]).await;
    let line = "keys delete key_1 --reason owner-left --note bye --etag \"1\" --merchant acme --field revision";
    let line: Vec<_> = line.split(' ').collect();
    assert_snapshot!(Session::with(address).run(&line).await, @"
    exit 0
    --- stdout
    1.9
    --- stderr
    warning: the change is made, but is not sure to hold everywhere before 2026-11-23T19:25:02Z
    ");
    let Asked::Delete(request) = server.calls().remove(0).asked else { panic!("another question") };
    let expected = DeleteRequest {
        id: "key_1".to_owned(),
        merchant_username: "acme".to_owned(),
        etag: "\"1\"".to_owned(),
        reason: 4,
        note: "bye".to_owned(),
        no_wait: false,
    };
    assert_eq!(request, expected);
}

#[tokio::test]
async fn whoever_does_not_wait_says_so() {
    let wanted = ["--no-wait"];
    let (server, address) = FakeServer::start([Answer::Delete(DeleteResponse::default())]).await;
    let line = [&["keys", "delete", "key_1"][..], &wanted].concat();
    Session::with(address).run(&line).await;
    assert!(matches!(server.calls().remove(0).asked, Asked::Delete(DeleteRequest { no_wait: true, .. })));
    let (server, address) = FakeServer::start([Answer::Update(UpdateResponse::default())]).await;
    let line = [&["keys", "update", "key_1", "--disable"][..], &wanted].concat();
    Session::with(address).run(&line).await;
    assert!(matches!(server.calls().remove(0).asked, Asked::Update(UpdateRequest { no_wait: true, .. })));
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_in_doubt() {
    let lost = Answer::Refusal(Status::unavailable("the database does not answer"));
    let (server, address) = FakeServer::start([lost]).await;
    assert_snapshot!(Session::with(address).run(&["keys", "delete", "key_1"]).await, @"
    exit 5
    --- stdout
    --- stderr
    error: the database does not answer
      code: UNAVAILABLE
      Whether the change was made is not known; look at the key before you repeat the command.
    ");
    assert_eq!(server.calls().len(), 1);
}
