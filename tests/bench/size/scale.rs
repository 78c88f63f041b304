//! The same calls where there are few keys and where there are many, in rounds that alternate.
//!
//! A cold Validate and a page of a List go to the database, one call at a time; a figure is the median of a round's
//! calls. A warm Validate is answered from memory, where the service holds all keys there are, asked for by Zipf's law; a
//! figure is the mean of a round's calls. It is measured twice: as the call that it is, and in process without its
//! transport, where memory that no cache holds shows most: a million keys take hundreds of megabytes. A page has 50 keys, with when they were last used and the token of the next,
//! as the wire wants them; the middle one follows after half of all keys.

use std::{hint::black_box, sync::Arc, time::Instant};

use claviger::app::{ListFilter, ListQuery};

use super::{
    Databases, Sizes, memory,
    wire::{self, Served},
};
use crate::{
    asking::{Ask, Code, InProcess, Wrong, settings},
    figures::{all, median, percentile},
    harness::TestDatabase,
    population::Mint,
    zipf::Zipf,
};

const ROUNDS: u64 = 5;
const PAGE: u32 = 50;
/// The largest page, to get to the middle.
const STRIDE: u32 = 1_000;

/// One kind of call: the figures of its rounds, with few keys and with many.
struct Compared {
    name: &'static str,
    small: Vec<f64>,
    large: Vec<f64>,
}

/// What goes to the database.
pub struct Unwarmed {
    validate: Compared,
    first_page: Compared,
    middle_page: Compared,
}

/// A service, and the token of its middle page.
struct Side {
    service: InProcess,
    middle: String,
}

/// Microseconds of what the database answers, on services whose memory is empty.
pub async fn unwarmed(databases: &Databases, sizes: Sizes, wrong: &mut Wrong) -> Unwarmed {
    let small = Side::start(&databases.small, sizes.small).await;
    let large = Side::start(&databases.large, sizes.large).await;
    let mut validate = Compared::new("validate, cold, µs");
    let mut first_page = Compared::new("list, first page, µs");
    let mut middle_page = Compared::new("list, middle page, µs");
    for round in 0..ROUNDS {
        let first = round * sizes.cold_calls;
        for (is_large, side) in [(false, &small), (true, &large)] {
            validate.side(is_large).push(side.validate(first..first + sizes.cold_calls, wrong).await);
            first_page.side(is_large).push(side.page(None, sizes.pages).await);
            middle_page.side(is_large).push(side.page(Some(&side.middle), sizes.pages).await);
        }
    }
    small.service.stop().await;
    large.service.stop().await;
    Unwarmed { validate, first_page, middle_page }
}

/// Nanoseconds of what memory answers. `full` holds all keys of the large database.
pub async fn warm(small: &TestDatabase, full: &InProcess, sizes: Sizes, wrong: &mut Wrong) -> Warm {
    let service = Arc::new(InProcess::start(small, settings(200_000)).await);
    memory::validate(&service, 0..sizes.small, wrong).await;
    let mut called = Compared::new("validate, warm call, µs");
    let mut decided = Compared::new("decision, warm, ns");
    let [few, many] = [Served::start(&service).await, Served::start(full).await];
    for round in 0..=ROUNDS {
        for (is_large, service, served, keys) in
            [(false, &*service, &few, sizes.small), (true, full, &many, sizes.large)]
        {
            let (mint, zipf) = (Mint::new(), Zipf::new(usize::try_from(keys).unwrap()));
            let ranks = zipf.calls(sizes.warm_calls, round);
            let texts: Vec<String> = ranks.into_iter().map(|rank| mint.text(rank as u64)).collect();
            // The runtime's workers poll the feed meanwhile; and none of its budgets ends an answer that is there.
            let took = tokio::task::block_in_place(|| {
                let call = wire::ask_all(served.address, wire::questions(&texts), wrong);
                (call, ask_all(service, &texts, wrong))
            });
            // The first one warms up.
            if round > 0 {
                called.side(is_large).push(took.0);
                decided.side(is_large).push(took.1);
            }
        }
    }
    [few, many].iter().for_each(Served::stop);
    service.stop().await;
    Warm { call: called.ratio(), decision: decided.ratio() }
}

/// Nanoseconds a call.
fn ask_all(service: &InProcess, texts: &[String], wrong: &mut Wrong) -> f64 {
    let (ask, mut others) = (Ask::new(), Vec::new());
    let began = Instant::now();
    for text in texts {
        let answer = ask.decide_once(service, black_box(text));
        if answer != Code::Valid {
            others.push(answer);
        }
    }
    let took = began.elapsed().as_secs_f64();
    wrong.note_all("a warm key", others, Code::Valid);
    took * 1e9 / texts.len() as f64
}

impl Side {
    async fn start(database: &TestDatabase, keys: u64) -> Self {
        let service = InProcess::start(database, settings(200_000)).await;
        let (mut middle, mut left) = (String::new(), keys / 2);
        while left > 0 {
            let page_size = STRIDE.min(u32::try_from(left).unwrap_or(STRIDE));
            let (listed, next) = list(&service, page_size, Some(&middle)).await;
            (middle, left) = (next.unwrap(), left - listed as u64);
        }
        Self { service, middle }
    }

    async fn validate(&self, numbers: std::ops::Range<u64>, wrong: &mut Wrong) -> f64 {
        let (ask, mint, mut times, mut answers) = (Ask::new(), Mint::new(), Vec::new(), Vec::new());
        for number in numbers {
            let text = mint.text(number);
            let began = Instant::now();
            let answer = ask.decide(&self.service, &text).await;
            times.push(began.elapsed());
            answers.push(answer);
        }
        wrong.note_all("a cold key", answers, Code::Valid);
        percentile(&times, 50)
    }

    async fn page(&self, token: Option<&str>, pages: usize) -> f64 {
        let mut times = Vec::new();
        for _ in 0..pages {
            let began = Instant::now();
            let (keys, _) = black_box(list(&self.service, PAGE, token).await);
            times.push(began.elapsed());
            assert_eq!(keys, PAGE as usize, "a page is not full");
        }
        percentile(&times, 50)
    }
}

/// One page: how many keys are on it, and the token of the next, if there is one.
async fn list(service: &InProcess, page_size: u32, token: Option<&str>) -> (usize, Option<String>) {
    let filter = ListFilter { states: vec![], show_deleted: false };
    let page_token = token.filter(|token| !token.is_empty()).map(ToOwned::to_owned);
    let query = ListQuery { merchant: None, filter, page_size, page_token };
    let page = service.app.list(&service.lister, &query).await.unwrap();
    let ids: Vec<_> = page.keys.iter().map(|key| key.id).collect();
    black_box(service.app.last_uses(&ids).await.unwrap());
    let token = match page.keys.last() {
        Some(last) if page.more => Some(service.app.page_token_after(&service.lister, &query, last).unwrap()),
        _ => None,
    };
    (page.keys.len(), token)
}

/// How much more a call costs where there are many keys.
pub struct Ratio(f64);

/// The same of what memory answers, as a call and as a decision in process.
pub struct Warm {
    call: Ratio,
    decision: Ratio,
}

impl Compared {
    fn new(name: &'static str) -> Self {
        Self { name, small: Vec::new(), large: Vec::new() }
    }

    fn side(&mut self, is_large: bool) -> &mut Vec<f64> {
        if is_large { &mut self.large } else { &mut self.small }
    }

    /// Of the medians; tells all rounds.
    fn ratio(&self) -> Ratio {
        for (keys, rounds) in [("few", &self.small), ("many", &self.large)] {
            println!("{:<24} {keys:>5} keys {}", self.name, all(rounds, 0));
        }
        Ratio(median(self.large.clone()) / median(self.small.clone()))
    }
}

impl Unwarmed {
    /// The table of the rounds, and then the figures.
    pub fn ratios(&self) -> [Ratio; 3] {
        [self.validate.ratio(), self.first_page.ratio(), self.middle_page.ratio()]
    }

    pub fn tell(&self, warm: &Warm, [cold, first, middle]: &[Ratio; 3]) {
        println!("scale_validate_cold_us: {:.0}", median(self.validate.large.clone()));
        println!("scale_validate_cold_ratio: {:.3}", cold.0);
        println!("scale_validate_warm_ratio: {:.3}", warm.call.0);
        println!("scale_decision_warm_ratio: {:.3}", warm.decision.0);
        println!("scale_validate_ratio: {:.3}", cold.0.max(warm.call.0));
        println!("scale_list_first_page_ratio: {:.3}", first.0);
        println!("scale_list_middle_page_ratio: {:.3}", middle.0);
        println!("scale_list_ratio: {:.3}", first.0.max(middle.0));
    }
}
