//! The way to the service: its address, the bearer key and a deadline on every call.

use std::{error::Error as StdError, fmt, path::PathBuf, time::Duration};

use clap::Args;
use tonic::{
    Request, Response, Status, TimeoutExpired,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use super::{
    arguments,
    console::Console,
    exit::{Exit, Failure},
    key_file::{self, CallerKey, Source},
    output::OutputArgs,
    request_id::outcome_is_unknown,
    trust::TrustArgs,
    wire,
};
use crate::grpc::proto::api_key_service_client::ApiKeyServiceClient;

/// Which service to call, with which key, and how to show its answer.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ClientArgs {
    /// Address of the service
    #[arg(
        long, global = true, value_name = "URL", value_parser = address,
        env = "CLAVIGER_ADDR", hide_env_values = true, default_value = "http://127.0.0.1:50051"
    )]
    addr: Uri,

    /// Whom to trust.
    #[command(flatten)]
    trust: TrustArgs,

    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "File with the key to call with [default: ./data/admin.key if it exists] [env: CLAVIGER_KEY_FILE; or \
                CLAVIGER_KEY, the key itself]"
    )]
    key_file: Option<PathBuf>,

    /// How long to wait for each answer
    #[arg(long, global = true, value_name = "DURATION", value_parser = arguments::some_time, default_value = "10s")]
    timeout: Duration,

    /// How to show the answer.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn address(text: &str) -> Result<Uri, String> {
    const RIGHT: &str = "write it like https://keys.example:50051 or http://127.0.0.1:50051";
    let uri: Uri = text.parse().map_err(|error| format!("{error}; {RIGHT}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(format!("it does not begin with https:// or http://; {RIGHT}")),
    }
    if uri.path_and_query().is_some_and(|rest| rest != "/") {
        return Err(format!("nothing may follow the port; {RIGHT}"));
    }
    Ok(uri)
}

/// A connection to the service, and the key that is shown on every call.
pub(crate) struct Client {
    service: ApiKeyServiceClient<Channel>,
    bearer: MetadataValue<Ascii>,
    source: Source,
    address: String,
    heard: wire::Heard,
    timeout: Duration,
}

impl Client {
    /// Finds the key, then connects.
    pub(crate) async fn connect(args: &ClientArgs, console: &mut Console) -> Result<Self, Failure> {
        let CallerKey { key, source } = key_file::find(args.key_file.as_deref(), console)?;
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", *key))
            .map_err(|_| Failure::new(Exit::NotAllowed, "the key to call with does not fit into a header"))?;
        // Kept out of `Debug` and out of the header compression table.
        bearer.set_sensitive(true);

        let address = format!(
            "{}://{}",
            args.addr.scheme_str().unwrap_or("http"),
            args.addr.authority().map_or("", |a| a.as_str())
        );
        let unreachable = |why: &dyn fmt::Display| {
            Failure::new(Exit::NotNow, format!("cannot connect to {address}: {why}"))
                .line("Is the service running there? `claviger serve` starts it; --addr or CLAVIGER_ADDR names another address.")
        };
        let endpoint = Endpoint::from(args.addr.clone())
            .user_agent(concat!("claviger-cli/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
        let endpoint = args.trust.apply(endpoint)?;
        let heard = wire::Heard::default();
        let connecting = endpoint.connect_with_connector(wire::connector(heard.clone()));
        let channel = match tokio::time::timeout(args.timeout, connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                return Err(match (args.trust.refusal(&error, &address), heard.get()) {
                    (Some(refusal), _) => refusal,
                    (None, Some(surprise)) => {
                        Failure::new(Exit::NotNow, format!("cannot speak with {address}: {surprise}"))
                    }
                    (None, None) => unreachable(&root_cause(&error)),
                });
            }
            Err(_) => {
                return Err(unreachable(&format!("no answer within {}", humantime::format_duration(args.timeout))));
            }
        };
        Ok(Self { service: ApiKeyServiceClient::new(channel), bearer, source, address, heard, timeout: args.timeout })
    }

    /// Where the key on every call came from.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Makes one call of `rpc`, and waits for its answer no longer than the deadline, which the service is told.
    pub(crate) async fn call<Q, A>(
        &self,
        question: Q,
        rpc: impl AsyncFnOnce(ApiKeyServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let mut request = Request::new(question);
        request.set_timeout(self.timeout);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        let status = match tokio::time::timeout(self.timeout, rpc(self.service.clone(), request)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(self.silence()),
        };
        // A status with a source was made on this side, under whatever code: the service has not answered.
        Err(match status.source() {
            None => status,
            // The channel watches the same deadline.
            Some(source) if chain(source).any(<dyn StdError>::is::<TimeoutExpired>) => self.silence(),
            Some(source) => {
                let why = self.heard.get().map_or_else(|| root_cause(source).to_string(), ToString::to_string);
                Status::unavailable(format!("the connection to {} broke: {why}", self.address))
            }
        })
    }

    fn silence(&self) -> Status {
        let timeout = humantime::format_duration(self.timeout);
        Status::deadline_exceeded(format!("no answer from {} within {timeout}", self.address))
    }

    /// As [`Self::call`], with the failure ready to be told.
    pub(crate) async fn ask<Q, A>(
        &self,
        question: Q,
        rpc: impl AsyncFnOnce(ApiKeyServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        self.call(question, rpc).await.map_err(|status| Failure::from_status(&status))
    }

    /// As [`Self::ask`], for a question that changes something: a failure tells if it may have.
    pub(crate) async fn change<Q, A>(
        &self,
        question: Q,
        rpc: impl AsyncFnOnce(ApiKeyServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        self.call(question, rpc).await.map_err(|status| {
            let failure = Failure::from_status(&status);
            if outcome_is_unknown(status.code()) {
                failure.line("Whether the change was made is not known; look at the key before you repeat the command.")
            } else {
                failure
            }
        })
    }
}

/// The first cause, which says the most; the errors around it say `transport error`.
pub(super) fn root_cause<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    chain(error).last().unwrap_or(error)
}

pub(super) fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
