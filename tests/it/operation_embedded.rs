//! The embedded database: one process a file, and a disk that is full.

use std::process::Command;

use claviger::grpc::proto::{self, DecisionCode};
use insta::assert_snapshot;
use tonic::Code;

use crate::harness::{
    key_of,
    process::{Program, Serving, admin_key},
    reason,
};

/// How far a file of the process may grow from now on.
fn limit_files(serving: &Serving, limit: &str) {
    let limit = format!("--fsize={limit}:unlimited");
    let set = Command::new("prlimit").args(["--pid", &serving.running.pid().to_string(), &limit]).status().unwrap();
    assert!(set.success());
}

async fn create(serving: &Serving, admin: &str, name: &str) -> Result<proto::CreateResponse, tonic::Status> {
    let api_key = proto::ApiKey { display_name: name.into(), ..key_of("acme", &[]) };
    let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
    Ok(serving.client(admin).create(request).await?.into_inner())
}

async fn decision(serving: &Serving, admin: &str, key: &str) -> DecisionCode {
    let request = proto::ValidateRequest { key: key.into(), ..Default::default() };
    serving.client(admin).validate(request).await.unwrap().into_inner().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_44_on_a_full_disk_a_change_fails_whole_and_validate_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // Without the signal that a write beyond the limit sends, the write fails, as it does on a full disk.
    let serving = Program::after(folder.path(), "trap '' XFSZ").serve();
    let admin = admin_key(folder.path());
    let before = create(&serving, &admin, "before").await.unwrap();
    assert_eq!(decision(&serving, &admin, &before.key).await, DecisionCode::Valid);
    limit_files(&serving, "0");
    for _ in 0..3 {
        let status = create(&serving, &admin, "never").await.err().unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "DATABASE_UNAVAILABLE"),
            "{status:?}"
        );
        insta::allow_duplicates! { assert_snapshot!(status.message(), @"the database does not answer or takes no changes now; nothing was changed"); }
    }
    let delete = proto::DeleteRequest { id: before.api_key.clone().unwrap().id, ..Default::default() };
    let status = serving.client(&admin).delete(delete.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(decision(&serving, &admin, &before.key).await, DecisionCode::Valid);

    // With room again, changes go on, and what failed left nothing.
    limit_files(&serving, "unlimited");
    let after = create(&serving, &admin, "after").await.unwrap();
    assert_eq!(decision(&serving, &admin, &after.key).await, DecisionCode::Valid);
    let revision = |text: &str| text.rsplit_once('.').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(revision(&after.revision), revision(&before.revision) + 1);
    serving.client(&admin).delete(delete).await.unwrap();
    assert_eq!(serving.stop().code, Some(0));

    let again = Program::new(folder.path()).serve();
    let request = proto::ListRequest { merchant_username: "acme".into(), ..Default::default() };
    let listed = again.client(&admin).list(request).await.unwrap().into_inner().api_keys;
    assert_eq!(listed.iter().map(|key| key.display_name.as_str()).collect::<Vec<_>>(), ["after"]);
    assert_eq!(decision(&again, &admin, &before.key).await, DecisionCode::Deleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_44_a_second_process_on_the_same_file_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let made = create(&serving, &admin, "first").await.unwrap();
    let second = Program::new(folder.path()).begin().ended();
    assert_eq!((second.code, second.stdout.as_str()), (Some(6), ""));
    assert_snapshot!(second.told(), @"ERROR claviger::cli::serve: another claviger is using FOLDER/data/claviger.db; stop it first, or use PostgreSQL, which several can share");
    assert_eq!(Program::new(folder.path()).args(&["migrate"]).run().code, Some(6));
    // By another path it is the same file.
    let beside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path().join("data"), beside.path().join("data")).unwrap();
    assert_eq!(Program::new(beside.path()).begin().ended().code, Some(6));
    assert_eq!(decision(&serving, &admin, &made.key).await, DecisionCode::Valid);
}
