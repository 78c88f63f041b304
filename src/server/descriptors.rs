//! The descriptors of this process: as many as the operating system grants, and a part of them for clients.
//!
//! The database, the ops port and files need descriptors, too, however many clients connect.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Limits;

/// As many descriptors at least are left for the database, the ops port and files.
const RESERVE: usize = 64;

/// Raises the limit of descriptors of this process as far as it may, and returns it. None: there is no limit.
///
/// # Errors
/// If the operating system refuses.
pub fn raise_limit() -> Result<Option<u64>, String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(|error| {
        format!("the limit of open files cannot be raised from {current:?} to {maximum:?}: {error}")
    })?;
    Ok(maximum)
}

/// How many connections there may be: as `wanted` says, or else [`Limits::CONNECTIONS`] or three quarters of `limit`,
/// whichever is less, with a reserve where the limit is very low.
///
/// # Errors
/// If that many would leave too few descriptors for everything else.
pub fn connections(wanted: Option<usize>, limit: Option<u64>) -> Result<usize, String> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let most = (limit / 4 * 3).min(limit.saturating_sub(RESERVE)).max(1);
    match wanted {
        Some(wanted) if wanted > most => Err(format!(
            "CLAVIGER_MAX_CONNECTIONS is {wanted}, and this process may open {limit} files, some of which the database and \
             the ops port need: set at most {most}, or raise the limit (ulimit -n)"
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(most.min(Limits::CONNECTIONS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_descriptors_is_left_for_everything_else() {
        assert_eq!(connections(None, Some(1_024)), Ok(768));
        assert_eq!(connections(None, Some(96)), Ok(32));
        assert_eq!(connections(None, Some(1_048_576)), Ok(4_096));
        assert_eq!(connections(None, None), Ok(4_096));
        assert_eq!(connections(Some(768), Some(1_024)), Ok(768));
        assert_eq!(connections(Some(100_000), Some(1_048_576)), Ok(100_000));
        let refused = connections(Some(769), Some(1_024)).unwrap_err();
        assert!(refused.contains("set at most 768"), "{refused}");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may() {
        assert_eq!(raise_limit(), Ok(getrlimit(Resource::Nofile).maximum));
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
