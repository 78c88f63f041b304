//! Clients of every kind: reflection, calls that nobody knows, messages that nobody can read, deadlines, logs.

use std::{collections::BTreeSet, net::Ipv4Addr};

use claviger::grpc::{SERVICE, proto};
use insta::assert_snapshot;
use prost::Message;
use prost_types::FileDescriptorProto;
use sea_orm::ConnectionTrait;
use tonic::{Code, Status};
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::{
    Engine, Service, key_of,
    process::{Program, admin_key, eventually},
    raw, reason, violations,
};

/// Asks the reflection service of version `$v` one question and gives its answer.
macro_rules! reflect {
    ($v:ident, $service:expr, $question:ident, $text:expr) => {{
        use $v::{server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest};
        let request = $v::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$question($text)),
        };
        let mut client = ServerReflectionClient::new($service.channel());
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    }};
}

macro_rules! services_and_files {
    ($v:ident, $service:expr, $symbols:expr) => {{
        use $v::server_reflection_response::MessageResponse;
        let listed = reflect!($v, $service, ListServices, String::new());
        let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
        let services: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
        let mut files = Vec::new();
        for symbol in $symbols {
            let found = reflect!($v, $service, FileContainingSymbol, symbol.to_owned());
            let MessageResponse::FileDescriptorResponse(found) = found else { panic!("{symbol}: {found:?}") };
            files.push(FileDescriptorProto::decode(found.file_descriptor_proto[0].as_slice()).unwrap());
        }
        (services, files)
    }};
}

const SYMBOLS: [&str; 7] = [
    SERVICE,
    "claviger.v1.ApiKey",
    "claviger.v1.ErrorReason",
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
    "google.rpc.RetryInfo",
    "grpc.health.v1.Health",
];

fn is_described(services: &BTreeSet<String>, files: &[FileDescriptorProto]) {
    for name in [SERVICE, "grpc.health.v1.Health"] {
        assert!(services.contains(name), "{services:?}");
    }
    for file in files.iter().filter(|file| file.package() == "claviger.v1") {
        let comments = file.source_code_info.as_ref().unwrap().location.iter();
        let comments = comments.filter(|location| !location.leading_comments().is_empty()).count();
        let things = file.service.iter().map(|service| service.method.len() + 1).sum::<usize>()
            + file.message_type.iter().map(|message| message.field.len() + 1).sum::<usize>()
            + file.enum_type.iter().map(|one| one.value.len() + 1).sum::<usize>();
        assert!(comments >= things * 9 / 10, "{}: {comments} comments for {things} things", file.name());
    }
}

/// A call of Get with a broken message, by hand.
async fn raw_get(service: &Service, headers: &[(&str, &str)], message: &[u8]) -> Status {
    let authorization = format!("Bearer {}", service.admin);
    let mut all = vec![("authorization", authorization.as_str())];
    all.extend_from_slice(headers);
    raw::call(service.address, "/claviger.v1.ApiKeyService/Get", &all, message).await
}

on_every_engine! {
    async fn a_deadline_that_passes_is_told_as_such_and_the_change_is_finished(service: Service) {
        let holder = service.database.by_hand().await;
        let hold = match service.database.address.engine() {
            claviger::store::Engine::Sqlite => "BEGIN IMMEDIATE",
            claviger::store::Engine::Postgres => "BEGIN; SELECT * FROM feed_head FOR UPDATE",
        };
        holder.execute_unprepared(hold).await.unwrap();
        let authorization = format!("Bearer {}", service.admin);
        let headers = [("authorization", authorization.as_str()), ("grpc-timeout", "200m")];
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
        let path = format!("/{SERVICE}/Create");
        let status = raw::call(service.address, &path, &headers, &request.encode_to_vec()).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_PASSED"));
        insta::allow_duplicates! { assert_snapshot!(status.message(), @"the deadline of the call passed; a change that had begun runs to its end"); }
        holder.execute_unprepared("COMMIT").await.unwrap();
        eventually("the change is made", || async {
            let request = proto::ListRequest { merchant_username: "acme".into(), ..Default::default() };
            (service.admin().list(request).await.unwrap().into_inner().api_keys.len() == 1).then_some(())
        })
        .await;
    }
}

on_every_engine! {
    async fn an_unknown_call_is_told_as_such(service: Service) {
        for path in ["/claviger.v1.ApiKeyService/Undelete", "/claviger.v1.Other/Get", "/nothing", "/", "/grpc.health.v1.Health/X"] {
            let authorization = format!("Bearer {}", service.admin);
            let status = raw::call(service.address, path, &[("authorization", &authorization)], &[]).await;
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"), "{path}");
            insta::allow_duplicates! { assert_snapshot!(status.message(), @"there is no such RPC, or the request is compressed, which is not supported; `grpcurl list` shows what there is"); }
        }
    }
}

on_every_engine! {
    async fn bytes_that_are_no_message_are_refused(service: Service) {
        for bytes in [&[0xFF_u8][..], &[0x0A, 0x05, b'a'], &[0x0A, 0x02, 0xC3, 0x28], &[0x08, 0x01]] {
            let status = raw_get(&service, &[], bytes).await;
            assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "REQUEST_UNREADABLE"), "{bytes:?}");
            insta::allow_duplicates! { assert_snapshot!(status.message(), @"the bytes of the request are no message of the type that this RPC takes"); }
        }
    }
}

on_every_engine! {
    async fn case_31_a_message_over_the_limit_is_refused(service: Service) {
        let request = |size: usize| proto::GetRequest { id: "x".repeat(size), ..Default::default() }.encode_to_vec();
        let fits = raw_get(&service, &[], &request(256 * 1024 - 4)).await;
        assert_eq!(reason(&fits), "FIELDS_INVALID");
        let status = raw_get(&service, &[], &request(256 * 1024 - 3)).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "REQUEST_TOO_LARGE"));
        insta::allow_duplicates! { assert_snapshot!(status.message(), @"the request is larger than 256 KiB"); }
    }
}

on_every_engine! {
    async fn a_compressed_message_is_refused_in_words(service: Service) {
        let status = raw_get(&service, &[("grpc-encoding", "gzip")], &[]).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"));
    }
}

on_every_engine! {
    async fn case_31_ten_thousand_required_scopes_are_refused_in_one_line(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let required_scopes = (0..10_000).map(|number| format!("scope:{number}")).collect();
        let request = proto::ValidateRequest { key: made.key, required_scopes, ..Default::default() };
        let status = service.admin().validate(request).await.unwrap_err();
        insta::allow_duplicates! { assert_snapshot!(violations(&status), @"required_scopes: has 10000 scopes; at most 16 are possible"); }
    }
}

on_every_engine! {
    async fn many_wrong_fields_fit_the_header_they_travel_in(service: Service) {
        let wrong: Vec<String> = (0..100).map(|number| format!("{number}.0.0.0/99")).collect();
        let api_key = proto::ApiKey { allowed_ips: wrong.clone(), denied_ips: wrong, ..key_of("acme", &[]) };
        let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
        let status = service.admin().create(request).await.err().unwrap();
        let told = violations(&status);
        let last = told.lines().last().unwrap();
        insta::allow_duplicates! { assert_snapshot!(last, @"api_key.allowed_ips[46]: is wrong as well, like 154 in all that found no room here; mend these first"); }
        assert!(status.details().len() < 6_000, "{} bytes", status.details().len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_and_describes_everything_to_old_and_new_clients() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let (services, files) = services_and_files!(v1, service, SYMBOLS);
    is_described(&services, &files);
    assert!(services.contains("grpc.reflection.v1.ServerReflection"), "{services:?}");
    let (services, files) = services_and_files!(v1alpha, service, SYMBOLS);
    is_described(&services, &files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_call_is_one_line_of_the_log_and_no_other_is() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let mut client = serving.client(&admin);
    let missing = proto::GetRequest { id: "key_0000000000000000000000".into(), ..Default::default() };
    let secret_path = format!("/claviger.v1.{admin}/Get");
    let authorization = format!("Bearer {admin}");
    let known = [("authorization", authorization.as_str())];
    client.list(proto::ListRequest::default()).await.unwrap();
    client.validate(proto::ValidateRequest { key: "no key".into(), ..Default::default() }).await.unwrap();
    client.get(missing.clone()).await.unwrap_err();
    client.get(proto::GetRequest::default()).await.unwrap_err();
    serving.client("no key").get(missing).await.unwrap_err();
    // Each by a peer of its own: a peer has one line a second for calls that are not authenticated.
    let get = "/claviger.v1.ApiKeyService/Get";
    for (last_byte, path, headers, message) in [
        (2, "/claviger.v1.ApiKeyService/Undelete", known.as_slice(), &[][..]),
        (3, "/a%1Bb", &known, &[]),
        (4, &secret_path, &known, &[]),
        (5, get, &known, &[0xFF]),
        (6, get, &[], &[]),
    ] {
        raw::call_from(Ipv4Addr::new(127, 0, 0, last_byte), serving.address, path, headers, message).await;
    }
    let ended = serving.stop();
    let lines: Vec<String> = ended.told().lines().filter(|line| line.contains("call failed")).map(plain).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Get" code="NOT_FOUND" reason="KEY_NOT_FOUND" caller=KEY peer="127.0.0.1" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Get" code="INVALID_ARGUMENT" reason="FIELDS_INVALID" caller=KEY peer="127.0.0.1" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Get" code="UNAUTHENTICATED" reason="CREDENTIALS_INVALID" caller="" peer="127.0.0.1" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Undelete" code="UNIMPLEMENTED" reason="METHOD_UNKNOWN" caller="" peer="127.0.0.2" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="(unknown)" code="UNIMPLEMENTED" reason="METHOD_UNKNOWN" caller="" peer="127.0.0.3" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="(unknown)" code="UNIMPLEMENTED" reason="METHOD_UNKNOWN" caller="" peer="127.0.0.4" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Get" code="INVALID_ARGUMENT" reason="REQUEST_UNREADABLE" caller="" peer="127.0.0.5" took_ms=N cause=""
    INFO claviger::grpc::outer: call failed rpc="/claviger.v1.ApiKeyService/Get" code="UNAUTHENTICATED" reason="CREDENTIALS_MISSING" caller="" peer="127.0.0.6" took_ms=N cause=""
    "#);
    assert!(!ended.stderr.contains(&admin[27..70]));
}

/// A line of the log without the parts that differ from run to run.
fn plain(line: &str) -> String {
    line.split(' ')
        .map(|word| match word.split_once('=') {
            Some(("took_ms", _)) => "took_ms=N".to_owned(),
            Some(("peer", address)) => format!("peer={}\"", address.split(':').next().unwrap_or_default()),
            Some(("caller", id)) if id != "\"\"" => "caller=KEY".to_owned(),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}
