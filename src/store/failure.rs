//! What a driver's error means. Its text goes into the cause, for the log, and no further.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::domain::error::{Error, Unavailable};

/// Turns a driver's error into one of ours.
pub(super) fn of(error: DbErr) -> Error {
    match meaning(&error) {
        Meaning::Contended => Error::Unavailable(Unavailable::Contended(error.into())),
        Meaning::Unavailable => Error::Unavailable(Unavailable::Database(error.into())),
        Meaning::Fault => Error::Fault(error.into()),
    }
}

/// Turns the error of a commit into one of ours: unless the database said that it rolled back, nobody knows.
pub(super) fn of_commit(error: DbErr) -> Error {
    let rolled_back = database_code(&error).is_some_and(|code| match code {
        // A write that failed left the log without its commit mark; after any other such error it may be there.
        Code::Sqlite(code) => code == SQLITE_IOERR_WRITE || code & 0xFF != SQLITE_IOERR,
        // Rollback (40), broken constraint (23), already failed (25).
        Code::Postgres(state) => ["40", "23", "25"].iter().any(|class| state.starts_with(class)),
    });
    if rolled_back { of(error) } else { Error::CommitOutcomeUnknown(error.into()) }
}

/// Connections that one call may find broken: all of a usual pool, after a restart of the server.
pub(super) const BROKEN_CONNECTIONS: u32 = 8;

/// Whether the connection was lost before or while the statement ran: another may do.
pub(super) fn is_of_a_broken_connection(error: &DbErr) -> bool {
    let was_shut_down = matches!(database_code(error), Some(Code::Postgres(state)) if state == "57P01");
    let (DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause))) = error else {
        return false;
    };
    was_shut_down || matches!(cause.as_ref(), sqlx::Error::Io(_))
}

enum Meaning {
    /// Another transaction was in the way, be it by its locks or by its rows.
    Contended,
    /// The database is away, full, or out of something.
    Unavailable,
    /// The statement or the row is wrong.
    Fault,
}

enum Code {
    Sqlite(u32),
    Postgres(String),
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_IOERR: u32 = 10;
const SQLITE_IOERR_WRITE: u32 = 778;
/// Read-only, interrupted, input/output, corrupt, full, cannot open, not a database.
const SQLITE_AWAY: [u32; 7] = [8, 9, SQLITE_IOERR, 11, 13, 14, 26];
/// A primary key or unique value was there already.
const SQLITE_UNIQUE: [u32; 2] = [1555, 2067];

fn meaning(error: &DbErr) -> Meaning {
    match database_code(error) {
        Some(Code::Sqlite(code)) => {
            let primary = code & 0xFF;
            if [SQLITE_BUSY, SQLITE_LOCKED].contains(&primary) || SQLITE_UNIQUE.contains(&code) {
                Meaning::Contended
            } else if SQLITE_AWAY.contains(&primary) {
                Meaning::Unavailable
            } else {
                Meaning::Fault
            }
        }
        Some(Code::Postgres(state)) => match state.as_str() {
            // Serialisation, deadlock, lock time-out, idle in transaction, unique value.
            "40001" | "40P01" | "55P03" | "25P03" | "23505" => Meaning::Contended,
            // Connection, resources, intervention, system, internal; read-only after a fail-over; no such database or
            // login, or one that lets nobody in, which an operator will put right.
            _ if ["08", "53", "57", "58", "XX", "25006", "3D", "28", "55000"]
                .iter()
                .any(|class| state.starts_with(class)) =>
            {
                Meaning::Unavailable
            }
            _ => Meaning::Fault,
        },
        None => match error {
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Meaning::Unavailable,
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
                match error.as_ref() {
                    sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed => Meaning::Unavailable,
                    _ => Meaning::Fault,
                }
            }
            _ => Meaning::Fault,
        },
    }
}

fn database_code(error: &DbErr) -> Option<Code> {
    let (DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))
    | DbErr::Conn(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    let sqlx::Error::Database(error) = error.as_ref() else { return None };
    let code = error.code()?;
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        code.parse().ok().map(Code::Sqlite)
    } else {
        Some(Code::Postgres(code.into_owned()))
    }
}
