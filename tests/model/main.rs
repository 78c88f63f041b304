//! The lease, memory and the feed of `app::freshness`, from the very files of the service, under shuttle, which runs their
//! threads in many orders of its own choice.
//!
//! Every scenario is run twice: as the code is, when no order may break the promise, and with one of the checker's bugs,
//! when shuttle has to find an order that does. What is modelled beside that code is the database (one lock, one snapshot
//! a read), time (a counter that one thread moves) and who asks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_wrap,
    clippy::unused_async,
    clippy::unused_self,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test says what went wrong by failing, and takes of the files it shares what it needs"
)]

mod clock {
    pub use claviger::clock::Uptime;
}

mod domain {
    pub use claviger::domain::*;
}

mod store {
    pub use claviger::store::*;
}

mod seeded {
    use std::cell::Cell;

    pub use claviger::seeded::Bug;

    /// A poll brings two rows beside the one it knows: backlogs are short in a model.
    pub const POLLED_ROWS: u64 = 3;

    thread_local! {
        /// Shuttle's threads all run on the thread of the test.
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub fn bug(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// The lease is judged when it is asked for: there are no streams here.
    pub fn when_judged(now: impl FnOnce() -> crate::clock::Uptime) -> crate::clock::Uptime {
        now()
    }

    /// Lets others go first, as the checker's build does.
    pub async fn race(_name: &'static str) {
        crate::world::dawdle();
    }
}

mod freshness;
mod scenarios;
mod world;
