//! The core: one invocation from its records to their fates.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use jobs::{Spec, Undecodable};
use serde_json::Value;
use services::{DEAD_LETTER_SUFFIX, Error, Outgoing, outbox};
use tokio::time::Instant;

use crate::context::{Context, Run};
use crate::event::{CONTINUATION, DEAD_LETTER_MARK, Identity, RUN_KEY, Record, TRACE_PARENT};
use crate::handler::{Handler, Prepared};
use crate::ledger::{self, Application, Claim, Ending};
use crate::outcome::{Failure, Outcome, Success};
use crate::telemetry::{self, Tally};

/// A slot may be this far ahead of the clock of this process.
const AHEAD: chrono::Duration = chrono::Duration::minutes(5);
/// SQS takes no larger message, attributes included.
const LARGEST_MESSAGE: usize = 1024 * 1024;
/// Longer chains are loops.
const LONGEST_CHAIN: u64 = 1000;

/// What the intake does with a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Settled: delete it.
    Acknowledge,
    /// Not settled: it comes back, after this if given, else at the end of its visibility timeout.
    Return(Option<Duration>),
}

/// A record, decoded as far as it can be.
struct Opened {
    record: Record,
    identity: Identity,
    trace_id: String,
    content: Option<Result<Prepared, Undecodable>>,
}

/// A claimed record on its way to the handler.
struct Claimed {
    index: usize,
    attempt: u32,
    crashes: u32,
}

/// One invocation.
pub(crate) struct Batch<'a> {
    pub spec: &'static Spec,
    pub handler: &'a Handler,
    pub context: Context,
    pub token: Rc<str>,
}

impl Batch<'_> {
    /// Gives every record its fate. Never fails: what cannot be settled is returned.
    pub(crate) async fn process(&self, records: Vec<Record>) -> Vec<Fate> {
        let begun = Instant::now();
        let mut tally = Tally::default();
        let count = records.len();
        let mut opened: Vec<_> = records.into_iter().map(|record| self.open(record)).collect();
        let mut fates = vec![Fate::Return(None); count];
        match self.claim(&opened).await {
            Ok(claims) => {
                let claimed = self.sort_out(&opened, claims, &mut fates, &mut tally);
                // Records that crashed a function before go last and alone: nobody else shall pay for them again.
                let (fresh, suspects): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|claimed| claimed.crashes == 0);
                let groups = std::iter::once(fresh).chain(suspects.into_iter().map(|suspect| vec![suspect]));
                for group in groups.filter(|group| !group.is_empty()) {
                    self.run_group(&mut opened, group, &mut fates, &mut tally).await;
                }
                self.follow_twins(&opened, &mut fates);
            }
            Err(error) => {
                tracing::error!(
                    job = self.spec.name(),
                    records = count,
                    error = error.chain(),
                    "the ledger could not be asked; records go back"
                );
                for (fate, opened) in fates.iter_mut().zip(&opened) {
                    *fate = Fate::Return(Some(outage_wait(opened.record.receives)));
                }
            }
        }
        self.send_departures(self.context.departures.take()).await;
        telemetry::emit(self.spec.name(), count, tally, begun.elapsed());
        fates
    }

    fn open(&self, record: Record) -> Opened {
        let body = serde_json::from_str::<Value>(&record.body);
        let identity = Identity::of(&record, body.as_ref().unwrap_or(&Value::Null));
        let trace_id = telemetry::trace_id(record.attributes.get(TRACE_PARENT));
        let content = body
            .map_err(Undecodable::NotJson)
            .and_then(self.handler.prepare)
            .and_then(|prepared| match prepared.as_of {
                Some(as_of) if as_of > chrono::Utc::now() + AHEAD => {
                    Err(Undecodable::Invalid(format!("`asOf` {as_of} is in the future")))
                }
                _ => Ok(prepared),
            });
        Opened {
            record,
            identity,
            trace_id,
            content: Some(content),
        }
    }

    async fn claim(&self, opened: &[Opened]) -> Result<HashMap<String, Claim>, Error> {
        self.context.database().refresh().await?;
        let mut seen = HashSet::new();
        let applications: Vec<_> = opened
            .iter()
            .filter(|opened| seen.insert(&opened.identity.run_key))
            .map(|opened| Application {
                run_key: opened.identity.run_key.clone(),
                trigger: opened.identity.trigger,
                message_id: opened.record.message_id.clone(),
                as_of: opened.content.as_ref().and_then(|content| content.as_ref().ok()?.as_of),
                first_seen_at: opened.record.sent_at.unwrap_or_else(chrono::Utc::now),
                trace_id: opened.trace_id.clone(),
            })
            .collect();
        if applications.is_empty() {
            return Ok(HashMap::new());
        }
        ledger::claim(
            self.context.database().pool(),
            self.spec.name(),
            &self.token,
            self.spec.lease(),
            &applications,
        )
        .await
    }

    /// Settles what the ledger knows already; the first record of each granted run goes on.
    fn sort_out(
        &self,
        opened: &[Opened],
        mut claims: HashMap<String, Claim>,
        fates: &mut [Fate],
        tally: &mut Tally,
    ) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for (index, opened) in opened.iter().enumerate() {
            match claims.get_mut(&opened.identity.run_key) {
                Some(Claim::Granted { attempt, crashes }) => {
                    claimed.push(Claimed {
                        index,
                        attempt: *attempt,
                        crashes: *crashes,
                    });
                    // Further records of the same run wait for this one: see `follow_twins`.
                    claims.remove(&opened.identity.run_key);
                }
                Some(Claim::Settled { dead: true }) if !self.fits_dead_letter(&opened.record) => {
                    fates[index] = Fate::Return(Some(Duration::ZERO))
                }
                Some(Claim::Settled { .. }) => fates[index] = Fate::Acknowledge,
                Some(Claim::Later(wait)) => fates[index] = Fate::Return(Some(*wait + Duration::from_secs(1))),
                None => continue,
            }
            tally.not_run += u32::from(claimed.last().is_none_or(|claimed| claimed.index != index));
        }
        claimed
    }

    /// A second record of a run in the same batch shares the fate of the first.
    fn follow_twins(&self, opened: &[Opened], fates: &mut [Fate]) {
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (index, opened) in opened.iter().enumerate() {
            match first.get(opened.identity.run_key.as_str()) {
                Some(&twin) => fates[index] = fates[twin].clone(),
                None => drop(first.insert(&opened.identity.run_key, index)),
            }
        }
    }

    /// Runs records together and writes their endings in one statement.
    async fn run_group(&self, opened: &mut [Opened], group: Vec<Claimed>, fates: &mut [Fate], tally: &mut Tally) {
        let mut outcomes: Vec<(Claimed, Outcome)> = Vec::with_capacity(group.len());
        let (mut work, mut runners) = (Vec::new(), Vec::new());
        let hurried = self.context.time_left() < self.spec.minimum;
        for claimed in group {
            tally.crashed += u32::from(claimed.crashes > 0);
            let content = opened[claimed.index].content.take();
            match content {
                _ if claimed.crashes >= self.spec.crashes() => {
                    let reason = format!(
                        "the function crashed, or was killed, in {} attempts of this message",
                        claimed.crashes
                    );
                    outcomes.push((claimed, Err(Failure::Dead { reason })));
                }
                Some(Err(error @ Undecodable::Newer { .. })) => outcomes.push((
                    claimed,
                    Err(Failure::Retry {
                        error: error.to_string(),
                        after: None,
                    }),
                )),
                Some(Err(error)) => outcomes.push((
                    claimed,
                    Err(Failure::Dead {
                        reason: error.to_string(),
                    }),
                )),
                Some(Ok(_)) if hurried => {
                    let reason = "handed back: too little time was left to begin".to_owned();
                    outcomes.push((
                        claimed,
                        Err(Failure::Deferred {
                            until: chrono::Utc::now(),
                            reason,
                        }),
                    ));
                }
                Some(Ok(prepared)) => {
                    work.push((self.run_of(&opened[claimed.index], &claimed, &prepared), prepared));
                    runners.push(claimed);
                }
                None => {}
            }
        }
        if !work.is_empty() {
            let stop = self.context.deadline - (self.spec.minimum / 4).min(Duration::from_secs(2));
            let work = work.into_iter().map(|(run, prepared)| (prepared, run)).collect();
            outcomes.extend(
                runners
                    .into_iter()
                    .zip((self.handler.handle)(work, self.context.clone(), stop).await),
            );
        }
        self.finish(opened, outcomes, fates, tally).await;
    }

    fn run_of(&self, opened: &Opened, claimed: &Claimed, prepared: &Prepared) -> Run {
        Run {
            spec: self.spec,
            context: self.context.clone(),
            run_key: opened.identity.run_key.clone(),
            token: self.token.clone(),
            trace_id: opened.trace_id.clone(),
            attempt: claimed.attempt,
            as_of: prepared.as_of,
            exclusive: false.into(),
        }
    }

    async fn finish(
        &self,
        opened: &[Opened],
        outcomes: Vec<(Claimed, Outcome)>,
        fates: &mut [Fate],
        tally: &mut Tally,
    ) {
        let mut endings = Vec::with_capacity(outcomes.len());
        for (claimed, outcome) in outcomes {
            let (ending, fate) = self.ending(&opened[claimed.index], &claimed, outcome, tally);
            fates[claimed.index] = fate;
            endings.push((claimed.index, ending));
        }
        let rows: Vec<_> = endings.iter().map(|(_, ending)| ending.clone()).collect();
        match self.finish_patiently(&rows).await {
            Ok(finished) => {
                let ours: HashSet<_> = finished.run_keys.iter().map(String::as_str).collect();
                for (index, ending) in &endings {
                    if !ours.contains(ending.run_key.as_str()) {
                        tracing::warn!(
                            job = self.spec.name(),
                            run_key = ending.run_key,
                            "the lease was lost; the other attempt decides"
                        );
                        fates[*index] = Fate::Return(None);
                    }
                }
                self.send_departures(finished.departures).await;
            }
            Err(error) => {
                tracing::error!(
                    job = self.spec.name(),
                    error = error.chain(),
                    "endings could not be written; records go back"
                );
                for (index, _) in &endings {
                    fates[*index] = Fate::Return(None);
                }
            }
        }
    }

    /// The work is done: it is worth a little patience to write that down.
    async fn finish_patiently(&self, endings: &[Ending]) -> Result<ledger::Finished, Error> {
        let mut waits = [Duration::from_millis(100), Duration::from_millis(500)].into_iter();
        loop {
            let result = ledger::finish(self.context.database().pool(), self.spec.name(), &self.token, endings).await;
            match (result, waits.next()) {
                (Err(error), Some(wait))
                    if error.kind == services::Kind::Transient && self.context.time_left() > Duration::from_secs(2) =>
                {
                    tracing::warn!(error = error.chain(), "endings are written again");
                    tokio::time::sleep(wait).await;
                }
                (result, _) => return result,
            }
        }
    }

    /// What an outcome makes of a run and of its record.
    fn ending(&self, opened: &Opened, claimed: &Claimed, outcome: Outcome, tally: &mut Tally) -> (Ending, Fate) {
        let mut ending = Ending {
            run_key: opened.identity.run_key.clone(),
            status: "done",
            reason: None,
            error: None,
            report: None,
            wait: Duration::ZERO,
            refund: false,
            departure: None,
        };
        let fate = match outcome {
            Ok(Success::Done(report)) => {
                tally.done += 1;
                ending.report = Some(report);
                Fate::Acknowledge
            }
            Ok(Success::Skipped(reason)) => {
                tally.skipped += 1;
                ending.status = "skipped";
                ending.reason = Some(reason);
                Fate::Acknowledge
            }
            Ok(Success::Continued(next)) => match continuation(self.spec, opened, &next) {
                Some(departure) => {
                    tally.continued += 1;
                    ending.status = "continued";
                    ending.departure = Some(departure);
                    Fate::Acknowledge
                }
                None => {
                    return self.bury(
                        opened,
                        claimed,
                        ending,
                        format!("continued more than {LONGEST_CHAIN} times"),
                        tally,
                    );
                }
            },
            Err(Failure::Deferred { until, reason }) => {
                tally.deferred += 1;
                ending.status = "deferred";
                ending.reason = Some(reason);
                ending.refund = true;
                ending.wait = (until - chrono::Utc::now()).to_std().unwrap_or_default();
                Fate::Return(Some(ending.wait))
            }
            Err(Failure::Retry { error, after }) if claimed.attempt < self.spec.attempts => {
                tally.retried += 1;
                tracing::warn!(
                    job = self.spec.name(),
                    run_key = ending.run_key,
                    attempt = claimed.attempt,
                    trace_id = opened.trace_id,
                    error,
                    "an attempt failed"
                );
                ending.status = "retrying";
                ending.error = Some(error);
                ending.wait = after.unwrap_or_else(|| self.spec.backoff.wait(claimed.attempt, rand::random()));
                Fate::Return(Some(ending.wait))
            }
            Err(Failure::Retry { error, .. }) => {
                ending.error = Some(error.clone());
                return self.bury(
                    opened,
                    claimed,
                    ending,
                    format!("failed {} times, at last: {error}", claimed.attempt),
                    tally,
                );
            }
            Err(Failure::Dead { reason }) => return self.bury(opened, claimed, ending, reason, tally),
        };
        (ending, fate)
    }

    /// The run is dead: its message goes to the DLQ with the reason, and is acknowledged. One that would not fit there with its
    /// reason goes as it is: it is returned until SQS moves it, and the ledger keeps the reason.
    fn bury(
        &self,
        opened: &Opened,
        claimed: &Claimed,
        mut ending: Ending,
        reason: String,
        tally: &mut Tally,
    ) -> (Ending, Fate) {
        tally.dead += 1;
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(1000).collect();
        tracing::error!(
            job = self.spec.name(),
            run_key = ending.run_key,
            attempt = claimed.attempt,
            trace_id = opened.trace_id,
            reason,
            "a run is dead"
        );
        ending.status = "dead";
        ending.reason = Some(reason.clone());
        if !self.fits_dead_letter(&opened.record) {
            return (ending, Fate::Return(Some(Duration::ZERO)));
        }
        let time = |at: jobs::Timestamp| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let mut attributes = BTreeMap::from([
            ("job".to_owned(), self.spec.name().to_owned()),
            (RUN_KEY.to_owned(), ending.run_key.clone()),
            (DEAD_LETTER_MARK.to_owned(), reason.clone()),
            (
                "error".to_owned(),
                ending
                    .error
                    .as_deref()
                    .unwrap_or(&reason)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(1000)
                    .collect(),
            ),
            ("attempts".to_owned(), claimed.attempt.to_string()),
            ("lastFailedAt".to_owned(), time(chrono::Utc::now())),
            (TRACE_PARENT.to_owned(), telemetry::trace_parent(&opened.trace_id)),
        ]);
        attributes.insert(
            "firstSeenAt".to_owned(),
            time(opened.record.sent_at.unwrap_or_else(chrono::Utc::now)),
        );
        let queue = format!("{}{DEAD_LETTER_SUFFIX}", self.spec.name());
        ending.departure = Some(Outgoing {
            queue,
            body: dead_letter_body(&opened.record),
            attributes,
            delay: Duration::ZERO,
        });
        (ending, Fate::Acknowledge)
    }

    /// Reason and error are cut at 1,000 characters of at most four bytes; the other attributes are small.
    fn fits_dead_letter(&self, record: &Record) -> bool {
        record.receipt.is_none() || record.body.len() + 10 * 1024 <= LARGEST_MESSAGE
    }

    async fn send_departures(&self, departures: Vec<outbox::Departure>) {
        if let Err(error) = outbox::send(self.context.database(), self.context.queues(), &departures).await {
            tracing::warn!(
                job = self.spec.name(),
                error = error.chain(),
                "sent messages stay in the outbox and may be sent again"
            );
        }
    }
}

/// SQS takes no empty body.
fn dead_letter_body(record: &Record) -> String {
    if record.body.is_empty() {
        "{}".to_owned()
    } else {
        record.body.clone()
    }
}

/// The next message of a chain: the same queue, a run key that counts.
fn continuation(spec: &Spec, opened: &Opened, next: &Value) -> Option<Outgoing> {
    let key = &opened.identity.run_key;
    let (root, link) = key
        .rsplit_once(CONTINUATION)
        .and_then(|(root, n)| Some((root, n.parse::<u64>().ok()?)))
        .unwrap_or((key, 0));
    let attributes = BTreeMap::from([
        (RUN_KEY.to_owned(), format!("{root}{CONTINUATION}{}", link + 1)),
        (TRACE_PARENT.to_owned(), telemetry::trace_parent(&opened.trace_id)),
    ]);
    (link < LONGEST_CHAIN).then(|| Outgoing {
        queue: spec.name().to_owned(),
        body: next.to_string(),
        attributes,
        delay: Duration::ZERO,
    })
}

/// While the database is away each receive costs one of SQS's; the tripwire must last for more than an hour.
fn outage_wait(receives: u32) -> Duration {
    let plain = Duration::from_secs(5)
        .saturating_mul(2u32.saturating_pow(receives.saturating_sub(1)))
        .min(Duration::from_secs(15 * 60));
    plain.mul_f64(rand::random_range(0.8..=1.2))
}
