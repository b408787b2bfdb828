//! The same test, once for every failure at every call.
//!
//! A scenario first runs undisturbed while its calls are recorded; then it runs again, in a new [`World`] each time,
//! with one fault at one of them. What it asserts at its end must hold every time: no effect twice, none missing.
//! A failure prints one line that repeats just that case.

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Error, Result};
use futures::future::FutureExt;
use futures::stream::{self, StreamExt};

use crate::wire::Wire;
use crate::world::World;

/// Worlds side by side: most of a case is waiting for processes and databases to start.
const AT_ONCE: usize = 4;

/// Who was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// The database.
    Postgres,
    /// The mail service.
    Ses,
    /// The queues.
    Sqs,
    /// The storage.
    S3,
}

/// A moment in the life of a scenario: the call with this number, from 1, of this service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// Who is called.
    pub service: Service,
    /// Which of the calls.
    pub number: usize,
}

/// One call, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub point: Point,
    /// The SQL in one line, the SQS operation, or the HTTP method and path.
    pub what: String,
    /// What it changes.
    pub effect: Effect,
}

/// What a call changes once it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: a preparation, a GET or a HEAD.
    None,
    /// Something that is rolled back unless a COMMIT follows.
    Pending,
    /// Something for good.
    Lasting,
}

impl Call {
    /// Whether it is more than a preparation or a question.
    pub fn has_effect(&self) -> bool {
        self.effect != Effect::None
    }

    /// As much of it as one reads in a list.
    fn title(&self) -> String {
        self.what.chars().take(60).collect()
    }
}

/// What can happen at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `kill -9` for the function; the call never arrives.
    KillBefore,
    /// The call is carried out, then `kill -9`; nobody hears the answer.
    KillAfter,
    /// The service says no: HTTP 500, or a serialization failure.
    Error,
    /// The call never arrives, and the connection breaks.
    TimeoutBefore,
    /// The call is carried out, and the connection breaks without an answer.
    AppliedButTimedOut,
}

/// One way for a scenario to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    /// A fault at one call.
    At(Point, Fault),
    /// Every message is given out twice.
    Duplicated,
    /// Messages are given out in any order.
    Reordered,
}

/// How a matrix went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The calls of the undisturbed run.
    pub calls: Vec<Call>,
    /// Cases that were run.
    pub cases: usize,
    /// Cases whose call never came: the scenario took another way.
    pub missed: Vec<Case>,
}

/// Every case that makes sense for these calls. Of calls that come again and again after the same call, as those of page after page do,
/// the first and the last stand for all. A preparation changes nothing, and a connection that breaks at it breaks before the statement.
/// With `JOBS_FAULT=every` none is left out.
pub fn matrix(calls: &[Call], every: bool) -> Vec<Case> {
    let at = |call: &Call| {
        // Before or after makes no difference to what changes nothing, or is rolled back.
        let faults = match (call.effect, call.point.service) {
            _ if every => ALL,
            (Effect::Lasting, _) => ALL,
            (Effect::Pending, _) => &[Fault::KillBefore, Fault::Error, Fault::TimeoutBefore],
            (Effect::None, Service::Postgres) => &[],
            (Effect::None, _) => &[Fault::Error, Fault::TimeoutBefore],
        };
        let point = call.point;
        faults.iter().map(move |fault| Case::At(point, *fault))
    };
    let tried = if every { calls.iter().collect() } else { telling(calls) };
    tried
        .into_iter()
        .flat_map(at)
        .chain([Case::Duplicated, Case::Reordered])
        .collect()
}

/// The first and the last of each pair of neighbours among the calls of one service.
fn telling(calls: &[Call]) -> Vec<&Call> {
    let mut before: HashMap<Service, &str> = HashMap::new();
    let mut pairs: HashMap<(Service, Option<&str>, &str), (usize, usize)> = HashMap::new();
    for (place, call) in calls.iter().enumerate() {
        let service = call.point.service;
        if !call.has_effect() && service == Service::Postgres {
            continue;
        }
        let pair = (service, before.insert(service, &call.what), &*call.what);
        pairs.entry(pair).or_insert((place, place)).1 = place;
    }
    let places: BTreeSet<usize> = pairs.into_values().flat_map(|(first, last)| [first, last]).collect();
    places.into_iter().filter_map(|place| calls.get(place)).collect()
}

const ALL: &[Fault] = &[
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::Error,
    Fault::TimeoutBefore,
    Fault::AppliedButTimedOut,
];

/// Runs a scenario undisturbed, then once for every case; with `JOBS_FAULT` set, that case alone.
///
/// # Panics
///
/// When the scenario does, after all cases have been tried; and when more than a tenth of the cases met no call,
/// because a scenario that is never the same proves little.
pub async fn everywhere(name: &str, scenario: impl AsyncFn(&World)) -> Report {
    let chosen = env::var("JOBS_FAULT").ok();
    let every = chosen.as_deref() == Some("every");
    if let Some(case) = chosen.filter(|_| !every) {
        let case = case
            .parse()
            .unwrap_or_else(|error| panic!("JOBS_FAULT={case}: {error:#}"));
        let missed = run(name, case, &scenario).await.then_some(case).into_iter().collect();
        return Report {
            calls: Vec::new(),
            cases: 1,
            missed,
        };
    }
    let wire = Arc::new(Wire::default());
    let world = World::wired(name, Some(wire.clone())).await;
    scenario(&world).await;
    drop(world);
    let calls = wire.calls();
    let cases = matrix(&calls, every);
    eprintln!("{name}: {} cases for {} calls", cases.len(), calls.len());
    let attempt = |case| {
        let scenario = &scenario;
        async move { (case, AssertUnwindSafe(run(name, case, scenario)).catch_unwind().await) }
    };
    let results: Vec<_> = stream::iter(cases.iter().copied())
        .map(attempt)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed: Vec<String> = results
        .iter()
        .filter(|(_, result)| result.is_err())
        .map(|(case, _)| describe(*case, &calls))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    let missed: Vec<Case> = results
        .into_iter()
        .filter(|(_, missed)| matches!(missed, Ok(true)))
        .map(|(case, _)| case)
        .collect();
    assert!(
        missed.len() * 10 <= cases.len(),
        "{} of {} cases met no call: {missed:?}",
        missed.len(),
        cases.len()
    );
    Report {
        calls,
        cases: cases.len(),
        missed,
    }
}

/// Whether the case did not come to pass.
async fn run(name: &str, case: Case, scenario: &impl AsyncFn(&World)) -> bool {
    let wire = match case {
        Case::At(point, fault) => Arc::new(Wire::armed(point, fault)),
        Case::Duplicated | Case::Reordered => Arc::default(),
    };
    let world = World::wired(name, Some(wire.clone())).await;
    match case {
        Case::At(..) => {}
        Case::Duplicated => world.queue.misbehave(1.0, false),
        Case::Reordered => world.queue.misbehave(0.0, true),
    }
    scenario(&world).await;
    matches!(case, Case::At(..)) && !wire.struck()
}

fn describe(case: Case, calls: &[Call]) -> String {
    let what = match case {
        Case::At(point, _) => calls
            .iter()
            .find(|call| call.point == point)
            .map_or(String::new(), Call::title),
        Case::Duplicated | Case::Reordered => String::new(),
    };
    format!("  JOBS_FAULT='{case}' JOBS_SEED={}  {what}", crate::seed())
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(Point { service, number }, fault) => {
                write!(
                    formatter,
                    "{}:{number}:{}",
                    word(SERVICES, service),
                    word(FAULTS, fault)
                )
            }
            Self::Duplicated => formatter.write_str("queue:duplicated"),
            Self::Reordered => formatter.write_str("queue:reordered"),
        }
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "queue:duplicated" => return Ok(Self::Duplicated),
            "queue:reordered" => return Ok(Self::Reordered),
            _ => {}
        }
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().context("a case reads like ses:3:applied-but-timed-out");
        let service = meaning(SERVICES, next()?)?;
        let number = next()?.parse().context("calls have numbers")?;
        let fault = meaning(FAULTS, next()?)?;
        Ok(Self::At(Point { service, number }, fault))
    }
}

const SERVICES: &[(&str, Service)] = &[
    ("postgres", Service::Postgres),
    ("ses", Service::Ses),
    ("sqs", Service::Sqs),
    ("s3", Service::S3),
];

const FAULTS: &[(&str, Fault)] = &[
    ("kill-before", Fault::KillBefore),
    ("kill-after", Fault::KillAfter),
    ("error", Fault::Error),
    ("timeout-before", Fault::TimeoutBefore),
    ("applied-but-timed-out", Fault::AppliedButTimedOut),
];

fn word<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> &'static str {
    words
        .iter()
        .find(|(_, one)| one == meaning)
        .map_or("", |(word, _)| word)
}

fn meaning<T: Copy>(words: &[(&str, T)], word: &str) -> Result<T> {
    let known = || {
        format!(
            "{word:?} is none of {:?}",
            words.iter().map(|(word, _)| *word).collect::<Vec<_>>()
        )
    };
    words
        .iter()
        .find(|(one, _)| *one == word)
        .map(|(_, meaning)| *meaning)
        .with_context(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(service: Service, number: usize, what: &str) -> Call {
        Call {
            point: Point { service, number },
            what: what.to_owned(),
            effect: Effect::Lasting,
        }
    }

    #[test]
    fn the_first_and_the_last_page_stand_for_all() {
        let page = ["BEGIN", "DELETE", "COMMIT"];
        let words = ["CLAIM"]
            .into_iter()
            .chain([page; 5].into_iter().flatten())
            .chain(["FINISH"]);
        let calls: Vec<_> = (1..)
            .zip(words)
            .map(|(number, what)| call(Service::Postgres, number, what))
            .collect();
        let numbers: Vec<_> = telling(&calls).iter().map(|call| call.point.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 14, 15, 16, 17]);
        assert_eq!(matrix(&calls, true).len(), 17 * 5 + 2, "unless every one is asked for");
    }

    #[test]
    fn a_case_reads_back_as_it_was_written() {
        let calls = [Service::Postgres, Service::Ses, Service::Sqs, Service::S3].map(|service| call(service, 3, ""));
        let cases = matrix(&calls, false);
        assert_eq!(cases.len(), 4 * 5 + 2);
        for case in cases {
            assert_eq!(case.to_string().parse::<Case>().unwrap(), case);
        }
        assert_eq!(
            Case::At(calls[1].point, Fault::AppliedButTimedOut).to_string(),
            "ses:3:applied-but-timed-out"
        );
        assert!("ses:3".parse::<Case>().is_err());
    }
}
