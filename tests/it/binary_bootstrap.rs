//! `claviger bootstrap`, and the file that makes the first administrator.

use std::{fs, path::Path};

use claviger::grpc::proto;
use insta::assert_snapshot;
use tonic::Code;

use crate::harness::{
    Engine, TestDatabase,
    dump::number,
    key_of,
    process::{Ended, Program, Serving, admin_key, write},
    reason,
};

const ROOT: &str = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";
const ADMINISTRATOR: [&str; 2] = ["claviger:admin", "claviger:all-merchants"];

/// A folder with a root secret in the place where the program looks for it.
fn folder_with_root() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("data/root-secrets")).unwrap();
    write(&folder.path().join("data/root-secrets/0"), ROOT, 0o600);
    folder
}

fn offline(folder: &Path) -> Ended {
    Program::new(folder).args(&["bootstrap", "--offline"]).run()
}

/// The key string that was printed, which has to be alone on standard output.
fn printed_key(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let key = ended.stdout.strip_suffix('\n').unwrap();
    assert!(key.len() == 88 && key.starts_with("clv_") && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    assert!(!ended.stderr.contains(key));
    key.to_owned()
}

async fn keys_of(serving: &Serving, key: &str) -> Vec<proto::ApiKey> {
    let request = proto::ListRequest { show_deleted: true, ..Default::default() };
    serving.client(key).list(request).await.unwrap().into_inner().api_keys
}

#[test]
fn offline_prints_the_key_string_alone() {
    let folder = folder_with_root();
    let ended = offline(folder.path());
    let key = printed_key(&ended);
    assert_eq!(ended.stderr, "");
    assert_ne!(printed_key(&offline(folder.path())), key);
}

#[test]
fn offline_without_a_root_secret_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let ended = offline(folder.path());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(6), ""));
    assert_snapshot!(ended.told(), @"error: FOLDER/data/root-secrets (CLAVIGER_ROOT_SECRETS) holds no root secret; make one with `mkdir -p -m 700 FOLDER/data/root-secrets && (umask 077; openssl rand -hex 32 > FOLDER/data/root-secrets/0)`");
    let several = folder_with_root();
    write(&several.path().join("data/root-secrets/1"), ROOT.replace('5', "6").as_str(), 0o600);
    let ended = offline(several.path());
    assert_eq!(ended.code, Some(6));
    assert_snapshot!(ended.told(), @"error: FOLDER/data/root-secrets holds several root secrets; name the active one with --root-secret");
    printed_key(&Program::new(several.path()).args(&["bootstrap", "--offline", "--root-secret", "1"]).run());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_at_once_make_one_administrator_who_never_returns_by_itself() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = folder_with_root();
    let key = printed_key(&offline(folder.path()));
    let file = folder.path().join("bootstrap.key");
    write(&file, &format!("{key}\n"), 0o600);
    let replica = || {
        Program::new(folder.path())
            .set("CLAVIGER_DATABASE_URL", database.url())
            .set("CLAVIGER_BOOTSTRAP_KEY_FILE", file.to_str().unwrap())
    };
    let replicas = [replica().begin(), replica().begin(), replica().begin()];
    let replicas = replicas.map(super::harness::process::Running::until_serving);
    let by_hand = database.by_hand().await;
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM api_key").await, 1);
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM bootstrap").await, 1);
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM audit_log").await, 1);
    for replica in &replicas {
        assert_eq!(keys_of(replica, &key).await.len(), 1);
    }
    let request = proto::CreateRequest { api_key: Some(key_of("claviger", &ADMINISTRATOR)), ..Default::default() };
    let second = replicas[0].client(&key).create(request).await.unwrap().into_inner().key;
    let first = keys_of(&replicas[1], &second).await.into_iter().find(|api_key| key.starts_with(&api_key.masked_key));
    let id = first.unwrap().id;
    let request =
        proto::DeleteRequest { id: id.clone(), reason: proto::DeleteReason::Compromised.into(), ..Default::default() };
    replicas[2].client(&second).delete(request).await.unwrap();
    for replica in replicas {
        let ended = replica.stop();
        assert_eq!(ended.code, Some(0));
        assert!(!ended.stderr.contains(&key) && ended.stdout.is_empty());
    }
    let again = replica().serve();
    let refused = again.client(&key).list(proto::ListRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    assert_eq!(keys_of(&again, &second).await.len(), 2);
    // Not even after it was purged.
    again.stop();
    sea_orm::ConnectionTrait::execute_unprepared(
        &by_hand,
        "DELETE FROM credential WHERE key_id IN (SELECT id FROM api_key WHERE delete_time IS NOT NULL);
         DELETE FROM api_key WHERE delete_time IS NOT NULL",
    )
    .await
    .unwrap();
    // The file did its work long ago, and may go.
    std::fs::remove_file(&file).unwrap();
    let again = replica().serve();
    assert_eq!(keys_of(&again, &second).await.len(), 1);
    assert_eq!(again.client(&key).list(proto::ListRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_makes_another_administrator_beside_a_running_service() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = folder_with_root();
    let program = || Program::new(folder.path()).set("CLAVIGER_DATABASE_URL", database.url());
    let serving = program().serve();
    let key = printed_key(&program().args(&["bootstrap", "--recover"]).run());
    assert_eq!(keys_of(&serving, &key).await.len(), 1);
    let by_hand = database.by_hand().await;
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM audit_log WHERE actor_kind = 3").await, 1);
    let ended = serving.stop();
    assert_snapshot!(ended.told(), @"
    INFO claviger::store::schema: migrated the schema from=0 to=4
    WARN claviger::launch: this database never had an administrator: set CLAVIGER_BOOTSTRAP_KEY_FILE to a file made by `claviger bootstrap --offline`, or run `claviger bootstrap --recover`

    Claviger serves gRPC on 127.0.0.1:PORT

      ops port        http://127.0.0.1:PORT with /livez, /readyz and /metrics
      root secrets    FOLDER/data/root-secrets

    In another terminal:

      export CLAVIGER_ADDR=http://127.0.0.1:PORT
      claviger keys create --merchant acme --name 'first key' --allow-ip 192.0.2.0/24
      claviger keys list

    INFO claviger::cli::serve: got SIGTERM
    INFO claviger::server: shutting down
    INFO claviger::server: stopped
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_on_an_embedded_database_wants_the_service_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let first = admin_key(folder.path());
    let recover = || Program::new(folder.path()).args(&["bootstrap", "--recover"]).run();
    let refused = recover();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(6), ""));
    assert_snapshot!(refused.told(), @"error: another claviger is using FOLDER/data/claviger.db; stop it first, or use PostgreSQL, which several can share");
    assert_eq!(keys_of(&serving, &first).await.len(), 1);
    assert_eq!(serving.stop().code, Some(0));
    let second = printed_key(&recover());
    let serving = Program::new(folder.path()).serve();
    assert_eq!(keys_of(&serving, &second).await.len(), 2);
    assert_eq!(admin_key(folder.path()), first);
}

#[test]
fn a_wrong_bootstrap_file_is_told_and_not_shown() {
    let (folder, other) = (folder_with_root(), tempfile::tempdir().unwrap());
    let file = folder.path().join("bootstrap.key");
    let start =
        || Program::new(folder.path()).set("CLAVIGER_BOOTSTRAP_KEY_FILE", file.to_str().unwrap()).begin().ended();
    let missing = start();
    write(&file, &printed_key(&offline(folder.path())), 0o644);
    let open = start();
    write(&file, "canary-in-a-file", 0o600);
    let no_key = start();
    fs::create_dir_all(other.path().join("data/root-secrets")).unwrap();
    write(&other.path().join("data/root-secrets/0"), ROOT.replace('5', "6").as_str(), 0o600);
    let foreign = printed_key(&offline(other.path()));
    write(&file, &foreign, 0o600);
    let forged = start();
    for ended in [&missing, &open, &no_key, &forged] {
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(6), ""));
        assert!(!ended.stderr.contains("canary") && !ended.stderr.contains(&foreign));
    }
    assert_snapshot!(missing.told(), @"
    INFO claviger::store::schema: migrated the schema from=0 to=4
    ERROR claviger::cli::serve: CLAVIGER_BOOTSTRAP_KEY_FILE: FOLDER/bootstrap.key cannot be read: No such file or directory (os error 2)
    ");
    assert_snapshot!(open.told(), @"ERROR claviger::cli::serve: CLAVIGER_BOOTSTRAP_KEY_FILE: FOLDER/bootstrap.key can be read by everybody (mode 644); take that away with `chmod o= FILE`");
    assert_snapshot!(no_key.told(), @"ERROR claviger::cli::serve: making the first administrator: CLAVIGER_BOOTSTRAP_KEY_FILE: holds no key string made under a root secret of this deployment; make one with `claviger bootstrap --offline`");
    assert_snapshot!(forged.told(), @"ERROR claviger::cli::serve: making the first administrator: CLAVIGER_BOOTSTRAP_KEY_FILE: holds no key string made under a root secret of this deployment; make one with `claviger bootstrap --offline`");
    assert!(!folder.path().join("data/admin.key").exists());
    // Put right, it is taken: what was wrong before left nothing behind.
    write(&file, &printed_key(&offline(folder.path())), 0o600);
    let serving = Program::new(folder.path()).set("CLAVIGER_BOOTSTRAP_KEY_FILE", file.to_str().unwrap()).serve();
    assert_eq!(serving.stop().code, Some(0));
}
