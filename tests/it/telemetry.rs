//! What a collector receives from the real binary, what `/metrics` shows, and what is in neither.

use std::{io::Write as _, process::Stdio};

use claviger::grpc::proto;
use opentelemetry_proto::tonic::{
    metrics::v1::{Metric, metric::Data, number_data_point},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tonic::Request;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{
    Engine, TestDatabase,
    collector::{Collector, texts},
    key_of,
    process::{Program, Serving, admin_key, eventually},
};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER_S_SPAN: &str = "b7ad6b7169203331";
const VALIDATE: &str = "claviger.v1.ApiKeyService/Validate";

/// A request in the trace of a caller, which records it or not.
fn traced<T>(message: T, recorded: bool) -> Request<T> {
    let mut request = Request::new(message);
    let flags = if recorded { "01" } else { "00" };
    let context = format!("00-{TRACE_ID}-{CALLER_S_SPAN}-{flags}");
    request.metadata_mut().insert("traceparent", context.parse().unwrap());
    request
}

fn create(merchant: &str) -> proto::CreateRequest {
    proto::CreateRequest { api_key: Some(key_of(merchant, &["charge:create"])), ..Default::default() }
}

fn validate(key: &str) -> proto::ValidateRequest {
    proto::ValidateRequest { key: key.to_owned(), caller_ip: "203.0.113.9".into(), ..Default::default() }
}

fn program(folder: &std::path::Path, collector: std::net::SocketAddr) -> Program {
    Program::new(folder)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
        .set("OTEL_BSP_SCHEDULE_DELAY", "50")
        .set("OTEL_METRIC_EXPORT_INTERVAL", "100")
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect()
}

/// The value of the point of `metric` that has this attribute.
fn value(metric: &Metric, name: &str, wanted: &str) -> i64 {
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let point = points.iter().find(|point| texts(&point.attributes).get(name).is_some_and(|value| value == wanted));
    match point.and_then(|point| point.value) {
        Some(number_data_point::Value::AsInt(value)) => value,
        other => panic!("{name} = {wanted}: {other:?} in {metric:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_receives_the_caller_s_trace_continued_down_to_the_database() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving =
        program(folder.path(), address).set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test").serve();
    let mut client = serving.client(&admin_key(folder.path()));
    let key = client.create(traced(create("acme"), true)).await.unwrap().into_inner().key;
    client.validate(traced(validate(&key), true)).await.unwrap();

    let server = collector.span("the server's span", |span| span.name == VALIDATE).await;
    assert_eq!((hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()), (TRACE_ID, CALLER_S_SPAN));
    assert_eq!(server.kind(), SpanKind::Server);
    insta::assert_debug_snapshot!(texts(&server.attributes), @r#"
    {
        "claviger.decision": "VALID",
        "network.peer.address": "127.0.0.1",
        "rpc.method": "claviger.v1.ApiKeyService/Validate",
        "rpc.response.status_code": "OK",
        "rpc.system.name": "grpc",
    }
    "#);
    // The key in question is read and hashed for the first time; the caller's own may be remembered by now.
    let below = |span: &Span| span.parent_span_id == server.span_id;
    collector.span("the hash", |span| below(span) && span.name == "argon2").await;
    collector.span("the read", |span| below(span) && span.name.starts_with("validation")).await;
    let mut names: Vec<_> = collector.spans().into_iter().filter(below).map(|span| span.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["argon2", "validation_read_even_deleted"]);
    let read = collector.span("the read", |span| below(span) && span.name.starts_with("validation")).await;
    assert_eq!(read.kind(), SpanKind::Client);
    insta::assert_debug_snapshot!(texts(&read.attributes), @r#"
    {
        "db.operation.name": "validation_read_even_deleted",
        "db.system.name": "sqlite",
    }
    "#);
    // A change runs in a task of its own, and in the caller's trace all the same.
    let commit = collector.span("the commit", |span| span.name == "commit" && hex(&span.trace_id) == TRACE_ID).await;
    assert_eq!(commit.status.map(|status| status.code()), Some(StatusCode::Unset));
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "claviger");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["deployment.environment"], "test");
    assert_eq!(serving.stop().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_the_caller_does_not_record_is_not_recorded_here() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving = program(folder.path(), address).serve();
    let mut client = serving.client(&admin_key(folder.path()));
    client.validate(traced(validate("unrecorded"), false)).await.unwrap();
    client.list(proto::ListRequest::default()).await.unwrap();
    collector.span("a later call's span", |span| span.name.ends_with("/List")).await;
    assert_eq!(serving.stop().code, Some(0));
    assert!(!collector.spans().iter().any(|span| span.name == VALIDATE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_been_sent_is_sent_at_the_end() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving = program(folder.path(), address)
        .set("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        .set("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
        .serve();
    let mut client = serving.client(&admin_key(folder.path()));
    client.validate(validate("malformed")).await.unwrap();
    assert!(collector.spans().is_empty() && collector.metrics().is_empty());
    assert_eq!(serving.stop().code, Some(0));
    assert_eq!(collector.spans().iter().filter(|span| span.name == VALIDATE).count(), 1);
    assert_eq!(value(&collector.metrics()["claviger.decisions"], "code", "MALFORMED"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_receives_what_operators_ask_for_first() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving = program(folder.path(), address).serve();
    let mut client = serving.client(&admin_key(folder.path()));
    let key = client.create(create("acme")).await.unwrap().into_inner().key;
    for key in [&key, &key, &key, "malformed"] {
        client.validate(validate(key)).await.unwrap();
    }
    let all = eventually("all decisions are known", || async {
        let all = collector.metrics();
        let decisions = all.get("claviger.decisions")?;
        (value(decisions, "code", "VALID") == 3 && value(decisions, "code", "MALFORMED") == 1).then_some(all)
    })
    .await;
    // The caller's key once and the other once; all else was remembered.
    assert_eq!(value(&all["claviger.proofs"], "outcome", "missed"), 2);
    assert_eq!(value(&all["claviger.alarms"], "kind", "record_poisoned"), 0);
    assert!(value(&all["claviger.database.connections"], "pool", "read") >= 0);
    for name in
        ["claviger.hashes", "claviger.hashes.waiting", "claviger.hashes.shed", "claviger.database.connections.max"]
    {
        assert!(all.contains_key(name), "{name} is missing in {:?}", all.keys());
    }
    let Some(Data::Histogram(calls)) = &all["rpc.server.call.duration"].data else { panic!("no histogram") };
    let validates = calls.data_points.iter().find(|point| texts(&point.attributes)["rpc.method"] == VALIDATE).unwrap();
    assert_eq!((validates.count, all["rpc.server.call.duration"].unit.as_str()), (4, "s"));
    assert!(validates.explicit_bounds[0] < 0.005, "{:?}", validates.explicit_bounds);
    let Some(Data::Histogram(database)) = &all["db.client.operation.duration"].data else { panic!("no histogram") };
    assert!(database.data_points.iter().any(|point| texts(&point.attributes)["db.operation.name"] == "commit"));
    assert_eq!(serving.stop().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_harms_no_call_and_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let serving = program(folder.path(), "127.0.0.1:9".parse().unwrap()).serve();
    let mut client = serving.client(&admin_key(folder.path()));
    client.create(create("acme")).await.unwrap();
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("the last telemetry could not be sent"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_the_log_tells_the_trace_it_belongs_to_whether_or_not_traces_go_out() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_LOG_FORMAT", "json").serve();
    let mut client = serving.client(&admin_key(folder.path()));
    client.get(traced(proto::GetRequest { id: "nonsense".into(), ..Default::default() }, true)).await.unwrap_err();
    client.get(proto::GetRequest { id: "nonsense".into(), ..Default::default() }).await.unwrap_err();
    let ended = serving.stop();
    let lines: Vec<serde_json::Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<_> = lines.iter().filter(|line| line["message"] == "call failed").collect();
    assert_eq!((&failed[0]["trace_id"], &failed[0]["span_id"]), (&TRACE_ID.into(), &CALLER_S_SPAN.into()));
    assert_eq!((failed.len(), failed[1].get("trace_id")), (2, None));
}

/// What the samples of one metric of `/metrics` are, by their labels.
async fn scraped(serving: &Serving, metric: &str) -> Vec<String> {
    let text = serving.ops("/metrics").await.text;
    text.lines().filter(|line| line.starts_with(&format!("{metric}{{"))).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_waited_for_counts_as_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let request = HealthCheckRequest { service: String::new() };
    let mut watching = HealthClient::new(serving.channel()).watch(request).await.unwrap().into_inner();
    watching.message().await.unwrap().unwrap();
    drop(watching);
    let counted = eventually("the call has ended", || async {
        let lines = scraped(&serving, "rpc_server_call_duration_seconds_count").await;
        lines.into_iter().find(|line| line.contains("Health/Watch"))
    })
    .await;
    assert!(counted.contains(r#"rpc_response_status_code="CANCELLED""#), "{counted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_path_is_one_label_whatever_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let mut grpc = tonic::client::Grpc::new(serving.channel());
    for path in ["/evil/One", "/evil/Two"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        grpc.unary(Request::new(()), path.parse().unwrap(), codec).await.unwrap_err();
    }
    let counted = scraped(&serving, "rpc_server_call_duration_seconds_count").await;
    insta::assert_snapshot!(counted.join("\n"), @r#"rpc_server_call_duration_seconds_count{error_type="UNIMPLEMENTED",rpc_method="_OTHER",rpc_response_status_code="UNIMPLEMENTED",rpc_system_name="grpc"} 2"#);
}

/// Case 38, as far as spans and metrics go; and nothing there tells one key, merchant or address from another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_38_no_secret_is_in_a_span_and_nothing_of_one_key_in_a_metric() {
    let database = TestDatabase::new(Engine::Sqlite).await.unwrap();
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots");
    let set_up = |program: Program| {
        program.set("CLAVIGER_DATABASE_URL", database.url()).set("CLAVIGER_ROOT_SECRETS", roots.to_str().unwrap())
    };
    std::fs::create_dir(folder.path().join("roots")).unwrap();
    let root = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f";
    crate::harness::process::write(&folder.path().join("roots/0"), root, 0o600);
    let admin =
        set_up(Program::new(folder.path())).args(&["bootstrap", "--offline"]).run().stdout.trim_end().to_owned();
    let bootstrap = folder.path().join("bootstrap.key");
    crate::harness::process::write(&bootstrap, &admin, 0o600);
    let serving =
        set_up(program(folder.path(), address)).set("CLAVIGER_BOOTSTRAP_KEY_FILE", bootstrap.to_str().unwrap()).serve();
    let mut client = serving.client(&admin);
    let made = client.create(create("merchant-canary")).await.unwrap().into_inner();
    let id = made.api_key.as_ref().unwrap().id.clone();
    client.validate(validate(&made.key)).await.unwrap();
    let rotated =
        client.rotate(proto::RotateRequest { id: id.clone(), ..Default::default() }).await.unwrap().into_inner();
    for key in [&made.key, &rotated.key, &admin, &format!("{}x", made.key)] {
        client.validate(validate(key)).await.unwrap();
        // A key string where none belongs is refused, and told nowhere.
        client.get(proto::GetRequest { id: key.clone(), ..Default::default() }).await.unwrap_err();
        serving.client("clv_wrong").list(proto::ListRequest::default()).await.unwrap_err();
    }
    let metrics = serving.ops("/metrics").await.text;
    assert_eq!(serving.stop().code, Some(0));
    let told = collector.everything();
    assert!(told.contains("VALID") && told.contains("commit"));
    for key in [&made.key, &rotated.key, &admin] {
        for secret in [key.as_str(), &key[27..70]] {
            assert!(!told.contains(secret) && !metrics.contains(secret));
        }
    }
    for word in ["SELECT", "select ", "INSERT", "argon2id$", root] {
        assert!(!told.contains(word), "{word} was told");
    }
    let of_metrics = format!("{:?}\n{metrics}", collector.metrics());
    for word in [id.as_str(), "merchant-canary", "203.0.113.9", "127.0.0.1"] {
        assert!(!of_metrics.contains(word), "{word} is in a metric");
    }
}

/// Needs promtool, which Debian has in its package `prometheus`; where it is required, its absence is a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_to_complain_about() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let mut client = serving.client(&admin_key(folder.path()));
    let key = client.create(create("acme")).await.unwrap().into_inner().key;
    client.validate(validate(&key)).await.unwrap();
    client.get(proto::GetRequest { id: "nonsense".into(), ..Default::default() }).await.unwrap_err();
    let scraped = serving.ops("/metrics").await;
    assert_eq!(scraped.status, 200);
    assert!(scraped.head.contains("content-type: text/plain; version=0.0.4"), "{}", scraped.head);
    let promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            #[expect(clippy::disallowed_methods, reason = "it is for the tests, not for the service")]
            let required = std::env::var_os("TEST_REQUIRE_PROMTOOL").is_some();
            assert!(!required, "promtool is required and cannot be run: {error}");
            return;
        }
    };
    promtool.stdin.take().unwrap().write_all(scraped.text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(told, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_the_keys_of_each_state() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::new(folder.path()).serve();
    let mut client = first.client(&admin_key(folder.path()));
    for (number, disabled) in [(1, false), (2, true), (3, true)] {
        let mut request = create(&format!("m{number}"));
        request.api_key.as_mut().unwrap().disabled = disabled;
        client.create(request).await.unwrap();
    }
    assert_eq!(first.stop().code, Some(0));
    // They are counted once a minute, the first time at the start.
    let second = Program::new(folder.path()).serve();
    let counted = eventually("they are counted", || async {
        let counted = scraped(&second, "claviger_keys").await;
        (!counted.is_empty()).then_some(counted)
    })
    .await;
    insta::assert_snapshot!(counted.join("\n"), @r#"
    claviger_keys{state="ACTIVE"} 2
    claviger_keys{state="DELETED"} 0
    claviger_keys{state="DISABLED"} 2
    claviger_keys{state="EXPIRED"} 0
    claviger_keys{state="NOT_YET_VALID"} 0
    "#);
}
