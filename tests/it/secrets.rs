//! No secret is ever found again: not in an answer, not in a log, not in the database.

use std::{collections::HashMap, fs, process::Command};

use claviger::grpc::{
    SERVICE,
    proto::{self, DecisionCode},
};
use insta::assert_snapshot;
use prost::Message;
use prost_types::FieldMask;
use tonic::Status;

use crate::harness::{
    Client, Engine, Service,
    dump::{dump, holds},
    key_of,
    process::{Program, admin_key},
    raw, violations,
};

/// Where the 43 characters of the secret are in a key string with the prefix `clv`.
const SECRET: std::ops::Range<usize> = 28..71;

/// Every request with `canary` in one of its texts, and what came of it.
async fn refusals(mut client: Client, id: &str, canary: &str) -> Vec<(&'static str, Option<Status>)> {
    let text = || canary.to_owned();
    let list = || vec!["192.0.2.1".to_owned(), canary.to_owned()];
    let labels = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]).into_iter().collect();
    let keys = || -> Vec<(&'static str, proto::ApiKey)> {
        let key = || key_of("acme", &[]);
        vec![
            ("id", proto::ApiKey { id: text(), ..key() }),
            ("merchant_username", proto::ApiKey { merchant_username: text(), ..key() }),
            ("display_name", proto::ApiKey { display_name: text(), ..key() }),
            ("masked_key", proto::ApiKey { masked_key: text(), ..key() }),
            ("allowed_ips", proto::ApiKey { allowed_ips: list(), ..key() }),
            ("denied_ips", proto::ApiKey { denied_ips: list(), ..key() }),
            ("scopes", proto::ApiKey { scopes: vec![text()], ..key() }),
            ("label key", proto::ApiKey { labels: labels(canary, "x"), ..key() }),
            ("label value", proto::ApiKey { labels: labels("x", canary), ..key() }),
            ("etag", proto::ApiKey { etag: text(), ..key() }),
            ("last_used_ip", proto::ApiKey { last_used_ip: text(), ..key() }),
        ]
    };
    let mut out = Vec::new();
    for (field, api_key) in keys() {
        let request = proto::CreateRequest { api_key: Some(api_key.clone()), ..Default::default() };
        out.push((field, client.create(request).await.err()));
        for paths in [vec!["disabled"], vec!["display_name", "allowed_ips", "denied_ips", "scopes", "labels"]] {
            let mut api_key = api_key.clone();
            if field != "id" {
                api_key.id = id.into();
            }
            let update_mask = Some(FieldMask { paths: paths.into_iter().map(Into::into).collect() });
            let request = proto::UpdateRequest { api_key: Some(api_key), update_mask, ..Default::default() };
            out.push((field, client.update(request).await.err()));
        }
    }
    let mask = Some(FieldMask { paths: vec![text()] });
    let api_key = Some(proto::ApiKey { id: id.into(), ..Default::default() });
    out.push((
        "mask",
        client.update(proto::UpdateRequest { api_key, update_mask: mask, ..Default::default() }).await.err(),
    ));
    let create = proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: text() };
    out.push(("request_id", client.create(create).await.err()));
    let get = |id: &str, merchant_username: String| proto::GetRequest { id: id.into(), merchant_username };
    out.push(("get id", client.get(get(canary, String::new())).await.err()));
    out.push(("get merchant", client.get(get(id, text())).await.err()));
    let list =
        |merchant_username, page_token| proto::ListRequest { merchant_username, page_token, ..Default::default() };
    out.push(("list merchant", client.list(list(text(), String::new())).await.err()));
    out.push(("page_token", client.list(list(String::new(), text())).await.err()));
    let delete = proto::DeleteRequest { id: id.into(), ..Default::default() };
    for (field, request) in [
        ("delete id", proto::DeleteRequest { id: text(), ..delete.clone() }),
        ("delete merchant", proto::DeleteRequest { merchant_username: text(), ..delete.clone() }),
        ("delete etag", proto::DeleteRequest { etag: text(), ..delete.clone() }),
        ("delete note", proto::DeleteRequest { note: text(), ..delete.clone() }),
    ] {
        out.push((field, client.delete(request).await.err()));
    }
    let rotate = proto::RotateRequest { id: id.into(), ..Default::default() };
    for (field, request) in [
        ("rotate id", proto::RotateRequest { id: text(), ..rotate.clone() }),
        ("rotate merchant", proto::RotateRequest { merchant_username: text(), ..rotate.clone() }),
        ("rotate etag", proto::RotateRequest { etag: text(), ..rotate.clone() }),
        ("rotate request_id", proto::RotateRequest { request_id: text(), ..rotate.clone() }),
    ] {
        out.push((field, client.rotate(request).await.err()));
    }
    let validate = proto::ValidateRequest { key: "no key".into(), ..Default::default() };
    let request = proto::ValidateRequest { caller_ip: text(), ..validate.clone() };
    out.push(("caller_ip", client.validate(request).await.err()));
    let request = proto::ValidateRequest { required_scopes: vec![text()], ..validate };
    out.push(("required_scopes", client.validate(request).await.err()));
    let request = proto::ValidateRequest { min_revision: text(), key: "no key".into(), ..Default::default() };
    out.push(("min_revision", client.validate(request).await.err()));
    out
}

/// Sends `canary` in headers and paths, where it means nothing.
async fn stray(address: std::net::SocketAddr, admin: &str, canary: &str) -> Vec<Status> {
    let good = format!("Bearer {admin}");
    let request = proto::GetRequest { id: "self".into(), ..Default::default() }.encode_to_vec();
    let get = format!("/{SERVICE}/Get");
    let basic = format!("Basic {canary}");
    let strange = format!("{canary} {canary}");
    let longer = format!("Bearer {canary}x");
    let mut out = vec![raw::call(address, &get, &[("authorization", &good), ("x-note", canary)], &request).await];
    for headers in [&[basic.as_str()][..], &[&strange], &[canary], &[&longer], &[&longer, &good]] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|value| ("authorization", *value)).collect();
        out.push(raw::call(address, &get, &headers, &request).await);
    }
    for path in [format!("/{canary}"), format!("/{SERVICE}/{canary}"), format!("/claviger.v1.{canary}/Get")] {
        out.push(raw::call(address, &path, &[("authorization", &good)], &request).await);
    }
    let timeout = [("authorization", good.as_str()), ("grpc-timeout", canary)];
    out.push(raw::call(address, &get, &timeout, &request).await);
    // As a field that no message has.
    let unknown = [&[0xFA, 0x3F, 88], canary.as_bytes()].concat();
    out.push(raw::call(address, &get, &[("authorization", &good)], &unknown).await);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_38_a_secret_is_never_found_again_in_logs_answers_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path())
        .set("CLAVIGER_LOG", "trace,h2::codec=trace,h2::proto=trace,hyper::proto=trace,sqlx::query=trace,tonic=trace")
        .serve();
    let admin = admin_key(folder.path());
    let mut client = serving.client(&admin);
    let request =
        proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: "a-retry-that-is-safe".into() };
    let made = client.create(request).await.unwrap().into_inner();
    let (canary, id) = (made.key, made.api_key.unwrap().id);
    let mut answers = Vec::new();
    for text in [canary.clone(), format!("see {canary}, it is {canary}")] {
        for (field, status) in refusals(serving.client(&admin), &id, &text).await {
            let status = status.unwrap_or_else(|| panic!("{field} was taken"));
            assert!(violations(&status).contains("holds a key string"), "{field}: {status:?}");
            answers.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
        }
    }
    for status in stray(serving.address, &admin, &canary).await {
        answers.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
    }
    for key in [canary.as_str(), &canary[..87], &format!("{canary} "), &canary.replace("clv", "clw")] {
        let request = proto::ValidateRequest { key: key.into(), ..Default::default() };
        answers.push(format!("{:?}", client.validate(request).await.unwrap()));
    }
    let rotate = proto::RotateRequest { id: id.clone(), request_id: "another-safe-retry".into(), ..Default::default() };
    let rotated = client.rotate(rotate).await.unwrap().into_inner().key;
    answers.push(format!("{:?}", client.list(proto::ListRequest::default()).await.unwrap()));
    let get = proto::GetRequest { id: id.clone(), ..Default::default() };
    answers.push(format!("{:?}", client.get(get).await.unwrap()));
    // While it runs, so that the write-ahead log is looked at, too.
    let mut files = Vec::new();
    for entry in fs::read_dir(folder.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("admin.key") {
            files.extend(fs::read(&path).unwrap());
        }
    }
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("call failed") && !ended.stderr.contains("TRACE h2"), "{}", ended.stderr);
    let root = fs::read_to_string(folder.path().join("data/root-secrets/0")).unwrap();
    for secret in [&canary[SECRET], &rotated[SECRET], &admin[SECRET], root.trim_end()] {
        assert_eq!(answers.iter().find(|answer| answer.contains(secret)), None);
        let line = ended.stderr.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
        assert!(!ended.stdout.contains(secret));
        assert!(!files.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

on_every_engine! {
    async fn case_38_a_dump_of_the_database_holds_no_secret(service: Service) {
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: "a-retry-that-is-safe".into() };
        let made = service.admin().create(request).await.unwrap().into_inner();
        let id = made.api_key.unwrap().id;
        for (field, status) in refusals(service.admin(), &id, &made.key).await {
            let status = status.unwrap_or_else(|| panic!("{field} was taken"));
            assert!(violations(&status).contains("holds a key string"), "{field}: {status:?}");
        }
        // Refused acts are written down, too.
        let nobody = service.make_for("acme", &[]).await;
        service.client(&nobody.key).get(proto::GetRequest { id: id.clone(), ..Default::default() }).await.unwrap_err();
        let rotate = proto::RotateRequest { id: id.clone(), request_id: "another-safe-retry".into(), ..Default::default() };
        let rotated = service.admin().rotate(rotate).await.unwrap().into_inner().key;
        assert_eq!(service.decision(&rotated).await, DecisionCode::Valid);
        let note = proto::DeleteRequest { id, note: "no longer used".into(), ..Default::default() };
        service.admin().delete(note).await.unwrap();
        let dump = dump(&service.database.by_hand().await).await;
        assert!(!holds(&dump, "a-retry-that-is-safe"), "request ids are stored as digests");
        assert!(dump.contains("no longer used") && dump.contains("argon2id"));
        for key in [&made.key, &rotated, &service.admin, &nobody.key] {
            // The credential's id may be seen; the secret and the tag may not.
            for part in [&key[SECRET], &key[71..82]] {
                assert!(!holds(&dump, part), "{part}");
            }
        }
    }
}

on_every_engine! {
    async fn case_39_a_name_cannot_lie_to_a_terminal_or_a_log(service: Service) {
        let names = [
            "\u{1b}[2J\u{1b}]0;owned\u{7}",
            "harmless\n2027-01-15T08:00:00Z  INFO claviger: all is well",
            "carriage\rreturn",
            "\u{202E}drawkcab",
            "zero\u{200B}width",
            "\u{9b}31m",
            &"🦀".repeat(1_024),
        ];
        let mut told = Vec::new();
        for name in names {
            let api_key = proto::ApiKey { display_name: name.into(), ..key_of("acme", &[]) };
            let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
            told.push(violations(&service.admin().create(request).await.err().unwrap()));
        }
        insta::allow_duplicates! { assert_snapshot!(told.join("\n"), @"
        api_key.display_name: holds the control character U+001B; write it without
        api_key.display_name: holds the control character U+000A; write it without
        api_key.display_name: holds the control character U+000D; write it without
        api_key.display_name: holds the control character U+202E; write it without
        api_key.display_name: holds the control character U+200B; write it without
        api_key.display_name: holds the control character U+009B; write it without
        api_key.display_name: has 1024 characters; at most 63 are possible
        "); }
        // 63 characters are 63, however many bytes they take.
        let name = "🦀".repeat(63);
        let made = service.make(proto::ApiKey { display_name: name.clone(), ..key_of("acme", &[]) }).await;
        assert_eq!(made.api_key.display_name, name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_39_a_log_stays_one_line_an_event_whatever_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_LOG", "claviger=trace").serve();
    let mut client = serving.client(&admin_key(folder.path()));
    let evil = "\u{1b}[31m\n2027-01-15T08:00:00Z  INFO claviger: all is well";
    for status in
        refusals(client.clone(), "key_0000000000000000000000", evil).await.into_iter().filter_map(|(_, status)| status)
    {
        assert!(!status.message().contains(['\n', '\u{1b}']), "{status:?}");
        assert!(!String::from_utf8_lossy(status.details()).contains('\u{1b}'), "{status:?}");
    }
    client.validate(proto::ValidateRequest { key: evil.into(), ..Default::default() }).await.unwrap();
    let ended = serving.stop();
    assert!(!ended.stderr.contains('\u{1b}') && !ended.stderr.contains("all is well"), "{}", ended.stderr);
}

/// Set for the process that panics on purpose.
const PANIC: &str = "TEST_PANIC_WITH";

#[test]
fn case_38_a_panic_tells_where_it_was_and_not_what_it_said() {
    let canary = "canary-in-a-panic";
    #[expect(clippy::disallowed_methods, reason = "it is for the tests, not for the service")]
    if let Some(text) = std::env::var_os(PANIC) {
        let settings = claviger::config::LogSettings { json: false, filter: "trace".into() };
        claviger::telemetry::log::begin(&settings).unwrap();
        let text = text.into_string().unwrap();
        assert!(std::thread::spawn(move || panic!("{text}")).join().is_err());
        return;
    }
    let name = "secrets::case_38_a_panic_tells_where_it_was_and_not_what_it_said";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(PANIC, canary)
        .output()
        .unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("panic") && told.contains(file!()), "{told}");
    assert!(!told.contains(canary) && !String::from_utf8(output.stdout).unwrap().contains(canary), "{told}");
}

/// Asks reflection about `canary` in each of its texts. Every question has to be refused.
async fn reflection_refusals(channel: &tonic::transport::Channel, canary: &str) -> Vec<(&'static str, Status)> {
    use tonic_reflection::pb::v1::{
        ExtensionRequest, ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest as Ask,
    };
    let text = || canary.to_owned();
    let extension = ExtensionRequest { containing_type: text(), extension_number: 1 };
    let questions = [
        ("symbol", String::new(), Ask::FileContainingSymbol(text())),
        ("symbol with a name around it", String::new(), Ask::FileContainingSymbol(format!("claviger.v1.{canary}"))),
        ("file", String::new(), Ask::FileByFilename(text())),
        ("extension", String::new(), Ask::FileContainingExtension(extension)),
        ("extension numbers", String::new(), Ask::AllExtensionNumbersOfType(text())),
        ("services", String::new(), Ask::ListServices(text())),
        ("host", text(), Ask::ListServices(String::new())),
    ];
    let mut out = Vec::new();
    for (field, host, question) in questions {
        let mut client = ServerReflectionClient::new(channel.clone());
        let bad = ServerReflectionRequest { host, message_request: Some(question) };
        let outcome = match client.server_reflection_info(tokio_stream::iter([bad])).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        out.push((field, outcome.err().unwrap_or_else(|| panic!("{field} was answered"))));
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_71_a_key_string_that_was_cut_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_LOG", "trace").serve();
    let admin = admin_key(folder.path());
    let mut client = serving.client(&admin);
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let made = client.create(request).await.unwrap().into_inner();
    let (key, id) = (made.key, made.api_key.unwrap().id);
    let mut answers = Vec::new();
    for length in [30, 60, 64, 87] {
        let cut = &key[..length];
        for (field, status) in refusals(serving.client(&admin), &id, cut).await {
            let status = status.unwrap_or_else(|| panic!("{field} was taken"));
            assert!(violations(&status).contains("holds a key string"), "{field}: {status:?}");
            answers.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
        }
        for (field, status) in reflection_refusals(&serving.channel(), cut).await {
            assert!(violations(&status).contains("message_request: holds a key string"), "{field}: {status:?}");
            answers.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
        }
    }
    // The public part alone is no secret: lists show it, and people write it into names.
    let public = &key[..26];
    let named = proto::ApiKey { display_name: format!("instead of {public}"), ..key_of("acme", &[]) };
    let request = proto::CreateRequest { api_key: Some(named), ..Default::default() };
    client.create(request).await.unwrap();
    let ended = serving.stop();
    assert!(ended.stderr.contains("call failed"), "{}", ended.stderr);
    assert_eq!(answers.iter().find(|answer| answer.contains(&key[..28])), None);
    assert_eq!(ended.stderr.lines().find(|line| line.contains(&key[..28])), None);
}
