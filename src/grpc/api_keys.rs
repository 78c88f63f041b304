//! `ApiKeyService`: each RPC reads, asks the app, and writes.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::Map};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::{
    MAX_REQUEST,
    answer::Answer,
    auth::{Authenticated, CallerKey, caller_key},
    items::Streams,
    outer::Deadline,
    proto::{
        self,
        api_key_service_server::{ApiKeyService, ApiKeyServiceServer},
    },
    question::Question,
    read,
    request_body::{self, RETRY_AFTER},
    status,
    stream::{Answers, Ends, Outcome},
    unsent_answers::require_room_for_page,
    write,
};
use crate::{
    admission::{CallBudgets, CallPermit},
    app::{App, EvaluationTime, LastUse, Patience, share_of},
    domain::{ApiKey, Caller, Error, KeyId, Result, scope},
};

/// Bytes of keys that a page may hold.
const MAX_PAGE_BYTES: usize = 3 * 1024 * 1024 - 1024;

/// The service.
pub struct ApiKeys {
    app: Arc<App>,
    ends: Ends,
}

impl ApiKeys {
    /// The service of `app`, behind its authentication; its streams end as `ends` says. With `short_cut` they are written
    /// past the generated server, see `items`.
    pub fn server(
        app: &Arc<App>,
        budgets: CallBudgets,
        ends: Ends,
        short_cut: bool,
    ) -> Authenticated<Streams<ApiKeyServiceServer<Self>>> {
        let service = Arc::new(Self { app: Arc::clone(app), ends });
        let generated = ApiKeyServiceServer::from_arc(Arc::clone(&service)).max_decoding_message_size(MAX_REQUEST);
        Authenticated::new(Arc::clone(app), budgets, Streams::new(service, short_cut, generated))
    }

    /// Opens a stream of validations.
    pub(super) async fn open(
        &self,
        request: Request<Streaming<proto::ValidateStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let key = caller_key(&request)?;
        let permit = key.budgets().permits.take(&key.share(), 1).await.map_err(|_full| request_body::overloaded())?;
        let caller = self.evaluate(&key).await?.caller;
        drop(permit);
        let opened = caller.require(scope::VALIDATE).and_then(|_reach| {
            // Evaluated by now, so the share is that of the caller.
            key.budgets()
                .streams
                .try_take_revocable(&key.share(), 1)
                .map_err(|_full| Error::Overloaded { retry_after: RETRY_AFTER })
        });
        let outcome =
            opened.map(|grant| Answers::new(&self.app, key, &caller, grant, request.into_inner(), &self.ends));
        self.answer(&caller, "ValidateStream", outcome)
    }

    /// Evaluates the caller of a request that is complete.
    async fn evaluate(&self, key: &CallerKey) -> Result<Evaluation, Status> {
        let began = self.app.evaluation_begins();
        let caller = key.evaluate(&self.app).await.map_err(status::of)?;
        Ok(Evaluation { caller, began })
    }

    /// Evaluates the caller again if the work took so long that it has to be. None: what was done may be answered. Else the
    /// caller's rights have changed, and the work has to be done again by these.
    async fn evaluate_again(&self, key: &CallerKey, before: &Evaluation) -> Result<Option<Evaluation>, Status> {
        if !self.app.is_outdated(before.began) {
            return Ok(None);
        }
        let now = self.evaluate(key).await?;
        Ok((!now.caller.has_the_rights_of(&before.caller)).then_some(now))
    }

    async fn get_key(&self, caller: &Caller, request: &proto::GetRequest) -> Result<proto::GetResponse> {
        if read::wanted_id(caller, &request.id) != Some(caller.key_id()) {
            caller.require(scope::KEYS_READ)?;
        }
        let (id, merchant) = read::get(self.app.key_format(), caller, request)?;
        let key = self.app.get(caller, id, merchant.as_ref()).await?;
        let last = self.last_use(&key).await;
        let api_key = write::with_last_use(write::api_key(&key, self.app.now()), last.as_ref());
        Ok(proto::GetResponse { api_key: Some(api_key) })
    }

    /// The answer of an RPC, or the status of its failure; a refusal of rights is written down.
    fn answer<T>(&self, caller: &Caller, rpc: &'static str, outcome: Result<T>) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|error| {
            if matches!(error, Error::Denied(_) | Error::NotFound | Error::Precondition(_)) {
                self.app.note_refusal(caller, rpc, status::name(status::reason(&error)));
            }
            status::of(error)
        })
    }

    /// When a key was last used. What is asked for is known without it, so a failure is told to the log alone.
    async fn last_use(&self, key: &ApiKey) -> Option<LastUse> {
        let found = self.app.last_use(key.id).await;
        found.inspect_err(|error| tracing::warn!(?error, "when a key was last used could not be read")).ok()?
    }

    async fn list_page(&self, caller: &Caller, request: &proto::ListRequest) -> Result<proto::ListResponse> {
        caller.require(scope::KEYS_READ)?;
        let query = read::list(self.app.key_format(), request)?;
        let page = self.app.list(caller, &query).await?;
        let ids: Vec<KeyId> = page.keys.iter().map(|key| key.id).collect();
        let last_uses = self.app.last_uses(&ids).await?;
        let (now, mut bytes) = (self.app.now(), 0);
        let mut api_keys = Vec::with_capacity(page.keys.len());
        for key in &page.keys {
            let key = write::with_last_use(write::api_key(key, now), last_uses.get(&key.id));
            // The tag and the length take up to 8 bytes on top.
            bytes += key.encoded_len() + 8;
            if bytes > MAX_PAGE_BYTES && !api_keys.is_empty() {
                break;
            }
            api_keys.push(key);
        }
        let ended_early = api_keys.len() < page.keys.len();
        let last = api_keys.len().checked_sub(1).map(|last| &page.keys[last]);
        let next_page_token = match last {
            Some(last) if page.more || ended_early => self.app.page_token_after(caller, &query, last)?,
            _ => String::new(),
        };
        Ok(proto::ListResponse { api_keys, next_page_token })
    }
}

/// A caller, and when it was evaluated.
struct Evaluation {
    caller: Caller,
    began: EvaluationTime,
}

/// How long the caller waits for the enforcement of a change.
fn patience<T>(request: &Request<T>, no_wait: bool) -> Patience {
    Patience {
        no_wait,
        deadline: request.extensions().get().map(|Deadline(deadline)| *deadline),
        permit: request.extensions().get::<CallPermit>().cloned().unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl ApiKeyService for ApiKeys {
    async fn create(&self, request: Request<proto::CreateRequest>) -> Result<Response<proto::CreateResponse>, Status> {
        let caller = self.evaluate(&*caller_key(&request)?).await?.caller;
        let work = async {
            caller.require(scope::KEYS_WRITE)?;
            let new = read::create(self.app.key_format(), self.app.now(), request.into_inner())?;
            self.app.create(&caller, new).await
        };
        let outcome = match work.await {
            Ok(answer) => Ok(write::created(&answer, self.last_use(&answer.api_key).await.as_ref(), self.app.now())),
            Err(error) => Err(error),
        };
        self.answer(&caller, "Create", outcome)
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let key = caller_key(&request)?;
        let request = request.into_inner();
        let mut evaluation = self.evaluate(&key).await?;
        loop {
            let outcome = self.get_key(&evaluation.caller, &request).await;
            match self.evaluate_again(&key, &evaluation).await? {
                None => return self.answer(&evaluation.caller, "Get", outcome),
                Some(changed) => evaluation = changed,
            }
        }
    }

    async fn list(&self, request: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        let key = caller_key(&request)?;
        let (_metadata, extensions, message) = request.into_parts();
        let mut evaluation = self.evaluate(&key).await?;
        require_room_for_page(&extensions, &share_of(&evaluation.caller), MAX_PAGE_BYTES).map_err(status::of)?;
        loop {
            let outcome = self.list_page(&evaluation.caller, &message).await;
            match self.evaluate_again(&key, &evaluation).await? {
                None => return self.answer(&evaluation.caller, "List", outcome),
                Some(changed) => evaluation = changed,
            }
        }
    }

    async fn update(&self, request: Request<proto::UpdateRequest>) -> Result<Response<proto::UpdateResponse>, Status> {
        let caller = self.evaluate(&*caller_key(&request)?).await?.caller;
        let work = async {
            caller.require(scope::KEYS_WRITE)?;
            let patience = patience(&request, request.get_ref().no_wait);
            let (target, patch) = read::update(self.app.key_format(), self.app.now(), request.into_inner())?;
            self.app.update(&caller, target, patch, patience).await
        };
        let outcome = match work.await {
            Ok(answer) => Ok(write::updated(&answer, self.last_use(&answer.api_key).await.as_ref(), self.app.now())),
            Err(error) => Err(error),
        };
        self.answer(&caller, "Update", outcome)
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        let caller = self.evaluate(&*caller_key(&request)?).await?.caller;
        let work = async {
            let patience = patience(&request, request.get_ref().no_wait);
            let request = request.into_inner();
            if request.id.parse() != Ok(caller.key_id()) {
                caller.require(scope::KEYS_WRITE)?;
            }
            let revocation = read::delete(self.app.key_format(), &request, patience)?;
            self.app.delete(&caller, revocation).await
        };
        let outcome = match work.await {
            Ok(answer) => Ok(write::deleted(&answer, self.last_use(&answer.api_key).await.as_ref(), self.app.now())),
            Err(error) => Err(error),
        };
        self.answer(&caller, "Delete", outcome)
    }

    async fn rotate(&self, request: Request<proto::RotateRequest>) -> Result<Response<proto::RotateResponse>, Status> {
        let caller = self.evaluate(&*caller_key(&request)?).await?.caller;
        let work = async {
            caller.require(scope::KEYS_WRITE)?;
            let patience = patience(&request, request.get_ref().no_wait);
            let rotation = read::rotate(self.app.key_format(), &request.into_inner(), patience)?;
            self.app.rotate(&caller, rotation).await
        };
        let outcome = match work.await {
            Ok(answer) => Ok(write::rotated(&answer, self.last_use(&answer.api_key).await.as_ref(), self.app.now())),
            Err(error) => Err(error),
        };
        self.answer(&caller, "Rotate", outcome)
    }

    async fn validate(
        &self,
        request: Request<proto::ValidateRequest>,
    ) -> Result<Response<proto::ValidateResponse>, Status> {
        let key = caller_key(&request)?;
        let question = Question::from(request.into_inner());
        loop {
            let Evaluation { caller, began } = self.evaluate(&key).await?;
            let answer = question.answer(&self.app, &caller).await;
            if !self.app.is_outdated(began) {
                return self.answer(&caller, "Validate", answer.and_then(Answer::into_message));
            }
        }
    }

    type ValidateStreamStream = Map<Answers, fn(Outcome) -> Result<proto::ValidateStreamResponse, Status>>;

    async fn validate_stream(
        &self,
        request: Request<Streaming<proto::ValidateStreamRequest>>,
    ) -> Result<Response<Self::ValidateStreamStream>, Status> {
        let as_message: fn(Outcome) -> _ = |outcome| outcome?.into_message().map_err(status::of);
        Ok(self.open(request).await?.map(|answers| answers.map(as_message)))
    }
}
