//! One question about a key, be it a call of its own or an item of a stream, and how it is answered.

use std::sync::Arc;

use prost::Message as _;
use zeroize::Zeroizing;

use super::{answer::Answer, proto, read};
use crate::{
    app::{self, App},
    domain::{Caller, Result, scope},
};

/// What was asked. The key string is wiped from memory when the question is dropped.
pub(super) struct Question {
    key: Zeroizing<String>,
    rest: proto::ValidateRequest,
}

impl From<proto::ValidateRequest> for Question {
    fn from(mut request: proto::ValidateRequest) -> Self {
        Self { key: Zeroizing::new(std::mem::take(&mut request.key)), rest: request }
    }
}

impl Question {
    /// The answer from memory, if nothing is wrong and memory has it.
    pub(super) fn answer_at_once(&self, app: &App, caller: &Caller) -> Option<Answer> {
        let read = read::validate(app.key_format(), &self.rest).ok()?;
        let verdict = app.validate_at_once(caller, &self.as_read(&read))?;
        Some(Answer::new(verdict, read.caller_ip))
    }

    /// The answer.
    ///
    /// # Errors
    /// What is wrong with the question or the caller, or why nothing can be decided.
    pub(super) async fn answer(&self, app: &Arc<App>, caller: &Caller) -> Result<Answer> {
        caller.require(scope::VALIDATE)?;
        let read = read::validate(app.key_format(), &self.rest)?;
        let verdict = app.validate(caller, self.as_read(&read)).await?;
        Ok(Answer::new(verdict, read.caller_ip))
    }

    /// Its length in bytes, more or less.
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.key.len() + self.rest.encoded_len()).unwrap_or(u64::MAX)
    }

    fn as_read<'a>(&'a self, read: &'a read::Validation) -> app::Question<'a> {
        let read::Validation { caller_ip, required_scopes, min_revision } = read;
        app::Question { key: &self.key, caller_ip: *caller_ip, required_scopes, min_revision: min_revision.as_ref() }
    }
}
