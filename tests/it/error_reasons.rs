//! Every reason for an error is provoked on a running service, and comes with its one code.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use claviger::{
    domain::{key_string::KeyFormat, scope},
    grpc::proto::{self, ErrorReason},
    server::{self, ServerSettings, ops::Readiness},
    store,
};
use prost::Message;
use sea_orm::{ConnectionTrait, TransactionTrait};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle as AbortOnDrop;
use tonic::{
    Code, IntoRequest, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_prost::ProstCodec;

use crate::{
    calls::{delete, get, rotate, update},
    harness::{Engine, Service, client_of, key_of, raw::HeldBack, reason, root},
};

/// Reasons that no test provokes, and why. This list may only shrink.
const EXEMPT: [(ErrorReason, &str); 1] = [(ErrorReason::Unspecified, "it is never sent")];

/// What cannot be provoked on one engine, beyond [`EXEMPT`].
fn exempt_on(engine: store::Engine) -> Option<(ErrorReason, &'static str)> {
    match engine {
        store::Engine::Sqlite => {
            Some((ErrorReason::CommitOutcomeUnknown, "it takes a disk that fails in the middle of a commit"))
        }
        store::Engine::Postgres => None,
    }
}

/// The code beside each reason, as `error_reason.proto` tells it.
fn documented_code(reason: ErrorReason) -> Code {
    match i32::from(reason) {
        1..=9 => Code::InvalidArgument,
        10..=19 => Code::Unauthenticated,
        20..=29 => Code::PermissionDenied,
        30 => Code::NotFound,
        31 => Code::AlreadyExists,
        40..=49 => Code::FailedPrecondition,
        50 => Code::Aborted,
        60..=62 | 66 | 67 => Code::Unavailable,
        63 => Code::ResourceExhausted,
        64 | 68 => Code::DeadlineExceeded,
        65 => Code::Unknown,
        70 | 71 => Code::Internal,
        72 => Code::Unimplemented,
        other => panic!("the proto file has a new reason {other}: say here which code it comes with"),
    }
}

/// What was provoked so far: the message by reason.
#[derive(Default)]
struct Provoked(BTreeMap<ErrorReason, String>);

impl Provoked {
    fn note<T>(&mut self, expected: ErrorReason, outcome: Result<T, Status>) {
        let status = outcome.err().unwrap_or_else(|| panic!("{expected:?} was not provoked"));
        assert_eq!(format!("ERROR_REASON_{}", reason(&status)), expected.as_str_name(), "{status:?}");
        assert_eq!(status.code(), documented_code(expected), "{status:?}");
        let hint = tonic_types::StatusExt::get_details_retry_info(&status).is_some();
        let again_later = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        assert_eq!(hint, again_later, "a hint when to come back, and only then: {status:?}");
        self.0.insert(expected, status.message().to_owned());
    }
}

/// Calls an RPC with a message of any type.
async fn raw(service: &Service, path: &'static str, message: impl Message + Default + 'static) -> Status {
    let mut client = tonic::client::Grpc::new(service.channel()).max_encoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    let mut request = message.into_request();
    let bearer = MetadataValue::try_from(format!("Bearer {}", service.admin)).unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let path = http::uri::PathAndQuery::from_static(path);
    client.unary::<_, (), _>(request, path, ProstCodec::default()).await.unwrap_err()
}

async fn create(service: &Service, request_id: &str, api_key: proto::ApiKey) -> Result<proto::CreateResponse, Status> {
    let request = proto::CreateRequest { api_key: Some(api_key), request_id: request_id.into() };
    Ok(service.admin().create(request).await?.into_inner())
}

/// The question is broken.
async fn broken_questions(service: &Service, provoked: &mut Provoked) {
    provoked.note(ErrorReason::FieldsInvalid, get(service.admin(), "no id").await);
    let path = "/claviger.v1.ApiKeyService/Get";
    // Field 1 of the request is a text and not a number.
    let number = prost_types::Duration { seconds: 1, nanos: 0 };
    provoked.note(ErrorReason::RequestUnreadable, Err::<(), _>(raw(service, path, number).await));
    let large = proto::GetRequest { id: "x".repeat(256 * 1024), ..Default::default() };
    provoked.note(ErrorReason::RequestTooLarge, Err::<(), _>(raw(service, path, large).await));
    let unknown = raw(service, "/claviger.v1.ApiKeyService/NoSuchRpc", proto::GetRequest::default()).await;
    provoked.note(ErrorReason::MethodUnknown, Err::<(), _>(unknown));
}

/// The caller is nobody, or may not.
async fn refused_callers(service: &Service, provoked: &mut Provoked) {
    provoked.note(ErrorReason::CredentialsMissing, get(service.anonymous(), "self").await);
    provoked.note(ErrorReason::CredentialsInvalid, get(service.client("clv_no_key_string"), "self").await);
    let tied = proto::ApiKey { allowed_ips: vec!["192.0.2.1".into()], ..key_of("acme", &[scope::ADMIN]) };
    let elsewhere = service.make(tied).await;
    provoked.note(ErrorReason::PeerNotAllowed, get(service.client(&elsewhere.key), "self").await);
    let target = service.make_for("acme", &[scope::ADMIN]).await;
    let writer = service.make_for("acme", &[scope::KEYS_WRITE]).await;
    provoked.note(ErrorReason::ScopeMissing, get(service.client(&writer.key), &target.id).await);
    let foreign = proto::CreateRequest { api_key: Some(key_of("other", &[])), ..Default::default() };
    provoked.note(ErrorReason::MerchantOutOfReach, service.client(&writer.key).create(foreign).await);
    provoked.note(ErrorReason::ReservedScopeNotHeld, delete(service.client(&writer.key), &target.id).await);
    provoked.note(ErrorReason::KeyNotFound, get(service.admin(), "key_0000000000000000000000").await);
}

/// The key is not in the state for it.
async fn wrong_states(service: &Service, provoked: &mut Provoked) {
    let deleted = service.make_for("acme", &[]).await;
    delete(service.admin(), &deleted.id).await.unwrap();
    provoked.note(ErrorReason::KeyDeleted, rotate(service.admin(), &deleted.id, 0).await);
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let expired = service.make(proto::ApiKey { ttl, ..key_of("acme", &[]) }).await;
    service.clock.advance(Duration::from_secs(1));
    provoked.note(ErrorReason::KeyExpired, rotate(service.admin(), &expired.id, 0).await);
    let first = get(service.admin(), "self").await.unwrap();
    provoked.note(ErrorReason::LastAdministrator, delete(service.admin(), &first.id).await);
    provoked.note(ErrorReason::OverlapRequired, rotate(service.admin(), &first.id, 0).await);
    let own = proto::ApiKey { scopes: vec![scope::KEYS_WRITE.into()], ..key_of("acme", &[]) };
    let own = service.make(own).await;
    let rotated = rotate(service.client(&own.key), &own.id, 900).await.unwrap();
    provoked.note(ErrorReason::SecretNotCurrent, rotate(service.client(&own.key), &own.id, 900).await);
    provoked.note(ErrorReason::OverlapTooYoung, rotate(service.client(&rotated.key), &own.id, 900).await);
    let stale = proto::ApiKey { etag: "\"0\"".into(), ..Default::default() };
    provoked.note(ErrorReason::EtagMismatch, update(service.admin(), &expired.id, &["labels"], stale).await);

    let id = "0123456789abcdef";
    let made = create(service, id, key_of("acme", &[])).await.unwrap().api_key.unwrap();
    provoked.note(ErrorReason::RequestIdReused, create(service, id, key_of("other", &[])).await);
    rotate(service.admin(), &made.id, 0).await.unwrap();
    provoked.note(ErrorReason::RequestIdSuperseded, create(service, id, key_of("acme", &[])).await);
    service.clock.advance(Duration::from_secs(15 * 60));
    provoked.note(ErrorReason::RequestIdExpired, create(service, id, key_of("acme", &[])).await);

    let at_least = async |min_revision: String| {
        let request = proto::ValidateRequest { key: expired.key.clone(), min_revision, ..Default::default() };
        service.admin().validate(request).await
    };
    let head = service.app.store().feed_head().await.unwrap();
    provoked.note(ErrorReason::RevisionAhead, at_least(format!("{}.{}", head.epoch(), head.seq() + 1)).await);
    provoked.note(ErrorReason::RevisionOfAnotherHistory, at_least(format!("other.{}", head.seq())).await);
}

/// The database, the process or the network are not as they should be.
async fn bad_days(service: &Service, provoked: &mut Provoked) {
    let poisoned = service.make_for("poisoned", &[scope::KEYS_READ]).await;
    service.execute("UPDATE api_key SET scopes = 'banana' WHERE merchant_username = 'poisoned'").await;
    provoked.note(ErrorReason::RecordPoisoned, service.validate(&poisoned.key, "").await);
    provoked.note(ErrorReason::CallerUndecided, get(service.client(&poisoned.key), "self").await);

    // Another replica activated a root secret before it was mounted here.
    let fingerprint = match service.app.store().engine() {
        store::Engine::Sqlite => "x'00000000000000000000000000000000'",
        store::Engine::Postgres => "decode('00000000000000000000000000000000', 'hex')",
    };
    let row =
        format!("INSERT INTO root_secret (k, fingerprint, state, activate_time) VALUES ('1', {fingerprint}, 2, 0)");
    service.execute(&row).await;
    service.app.upkeep().await.unwrap();
    let format: &KeyFormat = service.app.key_format();
    let foreign = format.mint(&root('1', 9), &mut rand::rngs::SysRng).unwrap();
    provoked.note(ErrorReason::RootSecretNotMounted, service.validate(foreign.reveal(), "").await);

    provoked.note(ErrorReason::RequestIncomplete, a_call_that_is_never_complete(service).await);
    provoked.note(ErrorReason::Overloaded, a_call_beside_the_bound(service).await);
    provoked.note(ErrorReason::StreamDrained, a_stream_that_is_old(service).await);
    provoked.note(ErrorReason::DeadlinePassed, a_call_that_takes_too_long(service).await);
    if service.app.store().engine() == store::Engine::Postgres {
        service
            .execute_silently(
                "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM \
                 pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER vanish AFTER \
                 INSERT ON audit_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()",
            )
            .await;
        provoked.note(ErrorReason::CommitOutcomeUnknown, create(service, "", key_of("acme", &[])).await);
        service.execute_silently("DROP TRIGGER vanish ON audit_log").await;
    }
    service.execute_silently("ALTER TABLE change_log RENAME TO change_log_away").await;
    provoked.note(ErrorReason::InternalFault, create(service, "", key_of("acme", &[])).await);
    service.app.drain().await;
    provoked.note(ErrorReason::Draining, create(service, "", key_of("acme", &[])).await);
    service.app.store().close().await.unwrap();
    provoked.note(ErrorReason::DatabaseUnavailable, get(service.admin(), "self").await);
}

/// Another server of the same service, and its address. It never ends by itself: its end would close the database that it
/// shares.
async fn beside(
    service: &Service,
    max_calls: usize,
    stream_age: Duration,
) -> (AbortOnDrop<Result<(), server::ServeError>>, Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let second = Duration::from_secs(1);
    let settings = ServerSettings {
        max_calls,
        drain_timeout: second,
        reflection: false,
        upkeep_interval: second,
        census_interval: None,
        traces: false,
        short_cut: !crate::harness::takes_the_long_way(),
        connection_age: second * 60,
        stream_age,
    };
    let (app, readiness) = (Arc::clone(&service.app), Arc::new(Readiness::default()));
    let serving = tokio::spawn(server::serve(listener, app, settings, readiness, std::future::pending()));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    (AbortOnDrop::new(serving), channel)
}

/// A call to a server that has no room for any.
async fn a_call_beside_the_bound(service: &Service) -> Result<proto::GetResponse, Status> {
    let (_serving, channel) = beside(service, 0, Duration::from_secs(60)).await;
    let answer = get(client_of(channel.clone(), &service.admin), "self")
        .await
        .map(|key| proto::GetResponse { api_key: Some(key) });
    let probe = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(probe.status(), ServingStatus::Serving, "a probe is answered however much there is to do");
    answer
}

/// A call whose message never comes.
async fn a_call_that_is_never_complete(service: &Service) -> Result<(), Status> {
    let mut call = HeldBack::begin(service.address, "/claviger.v1.ApiKeyService/Get", &service.admin).await;
    call.send(&[0, 0, 0, 0, 9, 1]);
    Err(call.status().await)
}

/// A stream that has reached its age and has nothing to say.
async fn a_stream_that_is_old(service: &Service) -> Result<Option<proto::ValidateStreamResponse>, Status> {
    let (_serving, channel) = beside(service, 8, Duration::ZERO).await;
    let mut client = client_of(channel, &service.admin);
    client.validate_stream(tokio_stream::pending()).await?.into_inner().message().await
}

/// A change that waits for a lock until its caller's deadline has passed.
async fn a_call_that_takes_too_long(service: &Service) -> Result<proto::DeleteResponse, Status> {
    let made = service.make_for("acme", &[]).await;
    let connection = service.database.by_hand().await;
    let held = connection.begin().await.unwrap();
    held.execute_unprepared("UPDATE feed_head SET seq = seq").await.unwrap();
    let mut answer = Err(Status::cancelled(""));
    // The client's own timer runs to the same moment; the server's answer is there a little before, if it is in time.
    for _ in 0..20 {
        let mut request = Request::new(proto::DeleteRequest { id: made.id.clone(), ..Default::default() });
        request.set_timeout(Duration::from_millis(200));
        answer = service.admin().delete(request).await;
        if !matches!(&answer, Err(status) if status.code() == Code::Cancelled) {
            break;
        }
    }
    held.rollback().await.unwrap();
    Ok(answer?.into_inner())
}

on_every_engine! {
    async fn every_reason_is_provoked_with_its_one_code(service: Service) {
        let mut provoked = Provoked::default();
        broken_questions(&service, &mut provoked).await;
        refused_callers(&service, &mut provoked).await;
        wrong_states(&service, &mut provoked).await;
        bad_days(&service, &mut provoked).await;

        let engine = service.app.store().engine();
        let exempt: BTreeMap<_, _> = EXEMPT.into_iter().chain(exempt_on(engine)).collect();
        for number in 0..1_000 {
            let Ok(reason) = ErrorReason::try_from(number) else { continue };
            assert_ne!(
                provoked.0.contains_key(&reason),
                exempt.contains_key(&reason),
                "{} is either provoked or exempt",
                reason.as_str_name()
            );
        }
        // The snapshot is of what every engine tells.
        provoked.0.remove(&ErrorReason::CommitOutcomeUnknown);
        let told: Vec<String> = provoked.0.iter().map(|(reason, message)| format!("{reason:?}: {message}")).collect();
        let told = told.join("\n");
        let ids = told.split_whitespace().filter(|word| word.starts_with("key_") && word.len() == 26);
        let told = ids.fold(told.clone(), |told, id| told.replace(id, "<id>"));
        insta::assert_snapshot!(told, @"
        FieldsInvalid: id `no id` is no key id; it is `key_` and 22 characters of 0-9A-Za-z
        RequestUnreadable: the bytes of the request are no message of the type that this RPC takes
        RequestTooLarge: the request is larger than 256 KiB
        CredentialsMissing: there is no `authorization` header; send one header `authorization: Bearer <key string>`
        CredentialsInvalid: the key string in `authorization` is not one that is accepted now
        PeerNotAllowed: the caller's key may not be used from the address of this connection
        ScopeMissing: the caller's key lacks the scope claviger:keys.read
        MerchantOutOfReach: the caller reaches the keys of its own merchant only; other merchants need the scope claviger:all-merchants
        ReservedScopeNotHeld: only a caller that holds these scopes itself may grant them or change a key that has them: claviger:admin
        KeyNotFound: there is no such key within the caller's reach
        RequestIdExpired: this request_id already made a secret of <id> which can no longer be shown (it can for 15 minutes, and not across an upgrade that erases it); Rotate that key for a new one
        KeyDeleted: the key is deleted
        KeyExpired: the key is expired; give it a later expire_time first
        LastAdministrator: this is the last key that can administer all merchants from here: it has to stay active, without end, with its scopes and usable from this address; make another one first
        OverlapRequired: a key that rotates itself needs an overlap of at least 15 minutes, or a lost answer would lock its holder out
        RequestIdReused: this request_id was used before for a request with another meaning; choose a new one
        RequestIdSuperseded: the secret that this request_id made was rotated away since; choose a new request_id
        RevisionAhead: min_revision is of a later state than the database is in: it was restored, or the revision is of another deployment
        RevisionOfAnotherHistory: min_revision is of another history of the database, which has a new one since it was restored or changed by hand; ask without it, or with a revision of today
        OverlapTooYoung: a key that rotates itself may not end an overlap that began less than 15 minutes ago; try again later
        SecretNotCurrent: a key that rotates itself has to call with its current secret, not with the one that is being retired
        EtagMismatch: the key was changed since this etag was read; Get it again and decide anew
        DatabaseUnavailable: the database does not answer or takes no changes now; nothing was changed
        RootSecretNotMounted: the root secret `1` is in use but not mounted on this replica
        Draining: this replica is shutting down
        Overloaded: too much work is waiting; try again after the given delay
        DeadlinePassed: the deadline of the call passed; a change that had begun runs to its end
        CallerUndecided: the caller's own key cannot be judged now
        StreamDrained: the stream has come to its end, and what was read is answered; open another one
        RequestIncomplete: the request was not complete after 2 seconds; nothing was done, and a retry is safe
        RecordPoisoned: the stored scopes of <id> cannot be read; this key is refused until it is repaired
        InternalFault: a fault inside Claviger; its log tells more
        MethodUnknown: there is no such RPC, or the request is compressed, which is not supported; `grpcurl list` shows what there is
        ");
    }
}
