//! The one command: what a start makes and says, what it refuses, how it logs.

use std::{collections::BTreeMap, fs, net::TcpListener, path::Path};

use claviger::grpc::proto;
use insta::assert_snapshot;

use crate::harness::process::{Program, admin_key, mode, write};

/// All files below `folder` with their contents, but for those the database writes on every start.
fn kept_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    ["data/admin.key", "data/root-secrets/0"]
        .map(|name| (name.to_owned(), fs::read(folder.join(name)).unwrap()))
        .into_iter()
        .collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_makes_what_is_needed_and_a_second_finds_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::new(folder.path()).serve();
    let path = |name: &str| folder.path().join("data").join(name);
    assert_eq!((mode(&path("")), mode(&path("root-secrets"))), (0o700, 0o700));
    for name in ["admin.key", "root-secrets/0", "claviger.db", "claviger.db-wal"] {
        assert_eq!(mode(&path(name)), 0o600, "{name}");
    }
    let admin = admin_key(folder.path());
    let listed = first.client(&admin).list(proto::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.api_keys.len(), 1);
    let made = kept_files(folder.path());
    let root = String::from_utf8(made["data/root-secrets/0"].clone()).unwrap();
    let ended = first.stop();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
    for secret in [admin.as_str(), &admin[27..70], root.trim_end()] {
        assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    }
    assert_snapshot!(ended.told(), @"
    INFO claviger::store::schema: migrated the schema from=0 to=4

    Claviger serves gRPC on 127.0.0.1:PORT

      ops port        http://127.0.0.1:PORT with /livez, /readyz and /metrics
      database        FOLDER/data/claviger.db
      root secrets    FOLDER/data/root-secrets, made now: back it up
      administrator   FOLDER/data/admin.key, made now: keep it safe

    A database without its root secrets is worthless: back up both, apart from each other.

    In another terminal:

      export CLAVIGER_ADDR=http://127.0.0.1:PORT
      claviger keys create --merchant acme --name 'first key' --allow-ip 192.0.2.0/24
      claviger keys list

    INFO claviger::cli::serve: got SIGTERM
    INFO claviger::server: shutting down
    INFO claviger::server: stopped
    ");

    let second = Program::new(folder.path()).serve();
    let listed = second.client(&admin).list(proto::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.api_keys.len(), 1);
    assert_eq!(kept_files(folder.path()), made);
    let ended = second.stop();
    assert_eq!(ended.code, Some(0));
    assert_snapshot!(ended.told(), @"

    Claviger serves gRPC on 127.0.0.1:PORT

      ops port        http://127.0.0.1:PORT with /livez, /readyz and /metrics
      database        FOLDER/data/claviger.db
      root secrets    FOLDER/data/root-secrets
      administrator   FOLDER/data/admin.key

    In another terminal:

      export CLAVIGER_ADDR=http://127.0.0.1:PORT
      claviger keys create --merchant acme --name 'first key' --allow-ip 192.0.2.0/24
      claviger keys list

    INFO claviger::cli::serve: got SIGTERM
    INFO claviger::server: shutting down
    INFO claviger::server: stopped
    ");
}

#[test]
fn an_interrupt_stops_it_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    serving.running.signal("INT");
    assert_eq!(serving.running.ended().code, Some(0));
}

#[test]
fn a_port_that_is_taken_is_told_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Program::new(folder.path()).set("CLAVIGER_LISTEN", address).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(6), ""));
    assert_snapshot!(ended.told(), @"ERROR claviger::cli::serve: 127.0.0.1:PORT cannot be listened on (CLAVIGER_LISTEN): Address already in use (os error 98)");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn all_wrong_settings_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::new(folder.path())
        .set("CLAVIGER_LISTEN", "localhost")
        .set("CLAVIGER_OPS_LISTEN", ":9")
        .set("CLAVIGER_DATA_DIR", "")
        .set("CLAVIGER_DATABASE_URL", "mysql://root:hunter2@db/claviger")
        .set("CLAVIGER_ROOT_SECRETS", "")
        .set("CLAVIGER_BOOTSTRAP_KEY_FILE", "")
        .set("CLAVIGER_KEY_PREFIX", "ACME\u{1b}[31m")
        .set("CLAVIGER_ACCEPTED_KEY_PREFIXES", "clv,_old")
        .set("CLAVIGER_HASH_PROFILE", "md5")
        .set("CLAVIGER_PURGE_AFTER", "0s")
        .set("CLAVIGER_DATABASE_CONNECTIONS", "1")
        .set("CLAVIGER_MAX_CALLS", "-1")
        .set("CLAVIGER_MAX_CONNECTIONS", "many")
        .set("CLAVIGER_DRAIN_TIMEOUT", "1 fortnight")
        .set("CLAVIGER_REFLECTION", "yes")
        .set("CLAVIGER_TLS_KEY", "")
        .set("CLAVIGER_PLAINTEXT", "yes")
        .set("CLAVIGER_CONNECTION_AGE", "1s")
        .set("CLAVIGER_LOG_FORMAT", "xml")
        .set("CLAVIGER_LOG", "info=loud=very")
        .run();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(!ended.stderr.contains("hunter2"));
    assert_snapshot!(ended.told(), @r"
    error: 21 settings are wrong:
      CLAVIGER_LISTEN `localhost` is no address with a port; write one such as 127.0.0.1:50051 or [::1]:50051
      CLAVIGER_OPS_LISTEN `:9` is no address with a port; write one such as 127.0.0.1:50051 or [::1]:50051
      CLAVIGER_DATA_DIR is empty; name a path or leave it out
      CLAVIGER_ROOT_SECRETS is empty; name a path or leave it out
      CLAVIGER_DATABASE_URL names MySQL, which is not supported yet; write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
      CLAVIGER_BOOTSTRAP_KEY_FILE is empty; name a path or leave it out
      CLAVIGER_KEY_PREFIX `ACME\u{1b}[31m` is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live
      CLAVIGER_ACCEPTED_KEY_PREFIXES `_old` is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live
      CLAVIGER_HASH_PROFILE is no profile; use random256 or owasp
      CLAVIGER_PURGE_AFTER `0s` is no duration such as 30d, from 1h to 3650d
      CLAVIGER_DATABASE_CONNECTIONS `1` is no number from 2 to 200
      CLAVIGER_MAX_CALLS `-1` is no number from 1 to 100000
      CLAVIGER_MAX_CONNECTIONS `many` is no number from 8 to 1000000
      CLAVIGER_DRAIN_TIMEOUT `1 fortnight` is no duration such as 15s, from 1s to 10m
      CLAVIGER_REFLECTION is none of on, off and auto
      CLAVIGER_TLS_KEY is empty; name a path or leave it out
      CLAVIGER_PLAINTEXT is none of loopback and anywhere
      CLAVIGER_TLS_CERT is missing, and CLAVIGER_TLS_KEY is set; name both files, or neither
      CLAVIGER_CONNECTION_AGE `1s` is no duration such as 30m, from 1m to 24h
      CLAVIGER_LOG_FORMAT is none of text and json
      CLAVIGER_LOG is no filter; write one such as info or claviger=debug
    ");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn a_misspelled_setting_is_refused_and_those_of_kubernetes_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::new(folder.path())
        .set("CLAVIGER_LISEN", "127.0.0.1:0")
        .set("CLAVIGER_DATABASE_PASSWORD", "hunter2")
        .set("CLAVIGER_PORT", "tcp://10.0.0.1:50051")
        .set("CLAVIGER_PORT_50051_TCP_ADDR", "10.0.0.1")
        .set("CLAVIGER_SERVICE_HOST", "10.0.0.1")
        .set("CLAVIGER_ADDR", "http://127.0.0.1:1")
        .run();
    assert_eq!(ended.code, Some(2));
    assert!(!ended.stderr.contains("hunter2"));
    assert_snapshot!(ended.told(), @"
    error: 2 settings are wrong:
      the environment has `CLAVIGER_DATABASE_PASSWORD`, which is no setting, perhaps CLAVIGER_DATABASE_URL; `claviger serve --help` lists all
      the environment has `CLAVIGER_LISEN`, which is no setting, perhaps CLAVIGER_LISTEN; `claviger serve --help` lists all
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_logs_are_one_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_LOG_FORMAT", "json").serve();
    let request = proto::GetRequest { id: "key_\n{\"level\":\"ERROR\"}".into(), ..Default::default() };
    serving.client(&admin_key(folder.path())).get(request).await.unwrap_err();
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0));
    let mut messages = Vec::new();
    for line in ended.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        messages.push(line["message"].as_str().unwrap_or_else(|| panic!("{line} has no message")).to_owned());
    }
    assert_snapshot!(messages.join("\n"), @"
    migrated the schema
    made a root secret: back it up
    made the first administrator
    serving
    call failed
    got SIGTERM
    shutting down
    stopped
    ");

    // What goes wrong at the start is a line of JSON, too.
    fs::remove_file(folder.path().join("data/root-secrets/0")).unwrap();
    let refused = Program::new(folder.path()).set("CLAVIGER_LOG_FORMAT", "json").begin().ended();
    assert_eq!(refused.code, Some(6));
    let lines: Vec<serde_json::Value> =
        refused.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "ERROR");
}

#[test]
fn migrate_makes_the_schema_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let migrate = || {
        let ended = Program::new(folder.path()).args(&["migrate"]).run();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
        assert_eq!(names_in(&folder.path().join("data")), ["claviger.db", "claviger.db.lock"]);
        ended.told()
    };
    assert_snapshot!(migrate(), @"
    INFO claviger::store::schema: migrated the schema from=0 to=4
    INFO claviger::cli::deployment: the schema is up to date version=4
    ");
    assert_snapshot!(migrate(), @"INFO claviger::cli::deployment: the schema is up to date version=4");
    write(&folder.path().join("data/claviger.db"), "this is no database, and long enough to be looked at", 0o600);
    let ended = Program::new(folder.path()).args(&["migrate"]).run();
    assert_eq!(ended.code, Some(6));
    assert_snapshot!(ended.told(), @"
    error: opening the database: the database does not answer or takes no changes now; nothing was changed
      Connection Error: error returned from database: (code: 26) file is not a database
    ");
}
