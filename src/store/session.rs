//! The session behind a connection to PostgreSQL: an answer counts only if it comes from the node that takes changes.
//!
//! To ask for the role in the statement itself is not enough: a standby that is promoted while it works on a statement
//! answers from a snapshot of before, and says that it takes changes. So the role is asked once when a connection is made,
//! too, and each answer says whether it comes from that same session. It does not if a pooler in between moved the
//! connection to another one.

use rand::{TryRng, rngs::SysRng};

use super::Engine;
use crate::domain::{Error, Result};

/// 1 on a node that takes changes: no standby, and not told to be read-only.
const IS_WRITER: &str =
    "CASE WHEN pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' THEN 0 ELSE 1 END";

/// What an answer says of the node and the session that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    NotTheWriter,
    OtherSession,
}

/// By which sessions of this process are told from those of others.
#[derive(Clone)]
pub(super) struct Sessions {
    /// SQL for what a session is: of which process, the backend and the start of its server.
    identity: String,
}

impl Sessions {
    /// Those of this process.
    ///
    /// # Errors
    /// `Fault` without randomness.
    pub(super) fn new() -> Result<Self> {
        let process = SysRng.try_next_u64().map_err(Error::fault)?;
        let identity =
            format!("'{process:016x} ' || pg_backend_pid() || ' ' || extract(epoch FROM pg_postmaster_start_time())");
        Ok(Self { identity })
    }

    /// To be asked once when a connection is made: its one column is 1 on a node that takes changes.
    pub(super) fn begin(&self) -> String {
        let Self { identity } = self;
        format!(
            "SELECT CAST({IS_WRITER} AS BIGINT) AS is_writer FROM (SELECT set_config('claviger.session', {identity}, \
             false)) AS begun"
        )
    }

    /// SQL for the column that every answer has; [`role`] reads it.
    pub(super) fn column(&self, engine: Engine) -> String {
        match engine {
            // A file has one writer, and no node between.
            Engine::Sqlite => "1".to_owned(),
            Engine::Postgres => {
                let Self { identity } = self;
                format!(
                    "CASE WHEN current_setting('claviger.session', true) IS DISTINCT FROM {identity} THEN 2 ELSE \
                     {IS_WRITER} END"
                )
            }
        }
    }
}

/// Reads the column of [`Sessions::column`].
pub(super) fn role(column: i64) -> Role {
    match column {
        1 => Role::Writer,
        2 => Role::OtherSession,
        _ => Role::NotTheWriter,
    }
}
