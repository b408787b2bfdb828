//! The core: one invocation from its records to their fates.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::catch_unwind;
use std::rc::Rc;
use std::slice;
use std::time::Duration;

use jobs::{Spec, Undecodable};
use serde_json::Value;
use services::{DEAD_LETTER_SUFFIX, Error, Outgoing, outbox};
use sqlx::PgConnection;
use tokio::time::{Instant, timeout_at};

use crate::context::{Context, Run};
use crate::event::{CONTINUATION, DEAD_LETTER_MARK, FIRST_SEEN, Identity, RUN_KEY, Record, TRACE_PARENT, link};
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
/// What is best effort ends so long before the deadline.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(100);

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
#[derive(Clone, Copy)]
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
                let (safe, suspects): (Vec<_>, Vec<_>) = claimed
                    .into_iter()
                    .partition(|claimed| claimed.crashes == 0 || self.is_given_up(*claimed));
                let alone = safe.is_empty() && suspects.len() == 1;
                if !alone {
                    self.park(&opened, &suspects, &mut fates).await;
                }
                self.run_group(&mut opened, safe, &mut fates, &mut tally).await;
                // Before anything that crashes.
                self.send_departures().await;
                self.run_suspects(&mut opened, suspects, alone, &mut fates, &mut tally)
                    .await;
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
        self.send_departures().await;
        telemetry::emit(self.spec.name(), count, tally, begun.elapsed());
        fates
    }

    fn open(&self, record: Record) -> Opened {
        let body = serde_json::from_str::<Value>(&record.body);
        let identity = Identity::of(&record, body.as_ref().unwrap_or(&Value::Null));
        let trace_id = telemetry::trace_id(record.attributes.get(TRACE_PARENT));
        let prepare = self.handler.prepare;
        let content = body
            .map_err(Undecodable::NotJson)
            .and_then(|body| {
                catch_unwind(|| prepare(body))
                    .unwrap_or_else(|panic| Err(Undecodable::Invalid(telemetry::describe_panic(panic.as_ref()))))
            })
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
        let (job, lease) = (self.spec.name(), self.spec.lease());
        let claim = async |connection: &mut PgConnection| {
            ledger::claim(connection, job, &self.token, lease, &applications).await
        };
        self.context.database().ledger(claim).await
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
                Some(Claim::Settled { dead: true })
                    if opened.record.receipt.is_some() && !fits_with_attributes(&opened.record) =>
                {
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

    fn is_given_up(&self, claimed: Claimed) -> bool {
        claimed.crashes >= self.spec.crashes()
    }

    /// Gives back, for now, what crashed a function before: a run that is not running when another one crashes pays nothing for it.
    async fn park(&self, opened: &[Opened], suspects: &[Claimed], fates: &mut [Fate]) {
        let mut endings = Vec::with_capacity(suspects.len());
        for suspect in suspects {
            fates[suspect.index] = Fate::Return(Some(Duration::ZERO));
            let mut ending = Ending::new(&opened[suspect.index].identity.run_key, "deferred");
            ending.reason = Some("waits to run alone: it was running when the function crashed".to_owned());
            ending.refund = true;
            endings.push(ending);
        }
        if !endings.is_empty()
            && let Err(error) = self.finish_patiently(&endings).await
        {
            tracing::error!(
                job = self.spec.name(),
                error = error.chain(),
                "runs could not be given back; they wait for the end of their lease"
            );
        }
    }

    /// Runs what crashed a function before, one by one and the least suspicious first. Unless `alone`, they were parked.
    async fn run_suspects(
        &self,
        opened: &mut [Opened],
        mut suspects: Vec<Claimed>,
        alone: bool,
        fates: &mut [Fate],
        tally: &mut Tally,
    ) {
        suspects.sort_by_key(|suspect| suspect.crashes);
        for suspect in suspects {
            let index = suspect.index;
            let claimed = if alone {
                vec![suspect]
            } else if self.is_hurried() {
                break;
            } else if let Ok(claims) = self.claim(slice::from_ref(&opened[index])).await {
                let range = index..=index;
                let mut claimed = self.sort_out(&opened[range.clone()], claims, &mut fates[range], tally);
                claimed.iter_mut().for_each(|claimed| claimed.index = index);
                claimed
            } else {
                break;
            };
            self.run_group(opened, claimed, fates, tally).await;
        }
    }

    fn is_hurried(&self) -> bool {
        self.context.time_left() < self.spec.minimum
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
        if group.is_empty() {
            return;
        }
        let mut outcomes: Vec<(Claimed, Outcome)> = Vec::with_capacity(group.len());
        let (mut work, mut runners) = (Vec::new(), Vec::new());
        let hurried = self.is_hurried();
        for claimed in group {
            tally.crashed += u32::from(claimed.crashes > 0);
            let content = opened[claimed.index].content.take();
            match content {
                _ if self.is_given_up(claimed) => {
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
                self.context.departures.borrow_mut().extend(finished.departures);
            }
            Err(error) => {
                tracing::error!(
                    job = self.spec.name(),
                    error = error.chain(),
                    "endings could not be written; records go back"
                );
                // The ledger calls them running until their lease ends; their visibility timeout is much longer.
                for (index, _) in &endings {
                    fates[*index] = Fate::Return(Some(self.spec.lease()));
                }
            }
        }
    }

    /// The work is done: it is worth a little patience to write that down.
    async fn finish_patiently(&self, endings: &[Ending]) -> Result<ledger::Finished, Error> {
        // A database that was restarted is back by then.
        let mut waits = [100, 500, 2000].map(Duration::from_millis).into_iter();
        loop {
            let finishing = timeout_at(self.context.deadline - 3 * ANSWER_WITHIN, self.finish_now(endings));
            let result = finishing
                .await
                .unwrap_or_else(|_| Err(Error::transient("no time was left")));
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

    async fn finish_now(&self, endings: &[Ending]) -> Result<ledger::Finished, Error> {
        let finish = async |connection: &mut PgConnection| {
            ledger::finish(connection, self.spec.name(), &self.token, endings).await
        };
        self.context.database().ledger(finish).await
    }

    /// What an outcome makes of a run and of its record.
    fn ending(&self, opened: &Opened, claimed: &Claimed, outcome: Outcome, tally: &mut Tally) -> (Ending, Fate) {
        let mut ending = Ending::new(&opened.identity.run_key, "done");
        let fate = match outcome {
            Ok(Success::Done(report)) => {
                tally.done += 1;
                ending.report = Some(report);
                Fate::Acknowledge
            }
            Ok(Success::Skipped(reason)) => {
                tally.skipped += 1;
                ending.status = "skipped";
                ending.reason = Some(legible(&reason));
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
                ending.reason = Some(legible(&reason));
                ending.refund = true;
                ending.wait = (until - chrono::Utc::now()).to_std().unwrap_or_default();
                self.come_back(opened, &mut ending)
            }
            Err(Failure::Retry { error, after }) if claimed.attempt < self.spec.attempts => {
                tally.retried += 1;
                tracing::warn!(
                    job = self.spec.name(),
                    run_key = ending.run_key,
                    attempt = claimed.attempt,
                    trace_id = opened.trace_id,
                    error = telemetry::discreet(&error),
                    "an attempt failed"
                );
                ending.status = "retrying";
                ending.error = Some(legible(&error));
                ending.wait = after.unwrap_or_else(|| self.spec.backoff.wait(claimed.attempt, rand::random()));
                self.come_back(opened, &mut ending)
            }
            Err(Failure::Retry { error, .. }) => {
                ending.error = Some(legible(&error));
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

    /// The record comes back after the wait. When SQS would not give it out again, because it was received too often, it goes on as a
    /// new message of the same run: waiting is no reason to die.
    fn come_back(&self, opened: &Opened, ending: &mut Ending) -> Fate {
        let last = opened.record.receives >= self.spec.max_receive_count();
        if !(last && opened.record.receipt.is_some() && fits_with_attributes(&opened.record)) {
            return Fate::Return(Some(ending.wait));
        }
        ending.departure = Some(Outgoing {
            queue: self.spec.name().to_owned(),
            body: sendable_body(&opened.record),
            attributes: BTreeMap::from([
                (RUN_KEY.to_owned(), ending.run_key.clone()),
                (TRACE_PARENT.to_owned(), telemetry::trace_parent(&opened.trace_id)),
            ]),
            delay: ending.wait,
        });
        Fate::Acknowledge
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
        let reason = legible(&reason);
        tracing::error!(
            job = self.spec.name(),
            run_key = ending.run_key,
            attempt = claimed.attempt,
            trace_id = opened.trace_id,
            reason = telemetry::discreet(&reason),
            "a run is dead"
        );
        ending.status = "dead";
        ending.reason = Some(reason.clone());
        if !fits_with_attributes(&opened.record) {
            // What did not come from a queue is in its caller's hands.
            let fate = match opened.record.receipt {
                Some(_) => Fate::Return(Some(Duration::ZERO)),
                None => Fate::Acknowledge,
            };
            return (ending, fate);
        }
        let time = |at: jobs::Timestamp| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let mut attributes = BTreeMap::from([
            ("job".to_owned(), self.spec.name().to_owned()),
            (RUN_KEY.to_owned(), ending.run_key.clone()),
            (DEAD_LETTER_MARK.to_owned(), reason.clone()),
            ("error".to_owned(), ending.error.clone().unwrap_or(reason)),
            ("attempts".to_owned(), claimed.attempt.to_string()),
            ("lastFailedAt".to_owned(), time(chrono::Utc::now())),
            (TRACE_PARENT.to_owned(), telemetry::trace_parent(&opened.trace_id)),
        ]);
        // A message that was sent round again remembers when it was new.
        let first_seen = opened.record.attributes.get(FIRST_SEEN).cloned();
        attributes.insert(
            FIRST_SEEN.to_owned(),
            first_seen.unwrap_or_else(|| time(opened.record.sent_at.unwrap_or_else(chrono::Utc::now))),
        );
        let queue = format!("{}{DEAD_LETTER_SUFFIX}", self.spec.name());
        ending.departure = Some(Outgoing {
            queue,
            body: sendable_body(&opened.record),
            attributes,
            delay: Duration::ZERO,
        });
        (ending, Fate::Acknowledge)
    }

    async fn send_departures(&self) {
        let departures = self.context.departures.take();
        let sending = outbox::send(self.context.database(), self.context.queues(), &departures);
        // What cannot be sent in time is the relay's: it must not cost this invocation its answer.
        let sent = timeout_at(self.context.deadline - 2 * ANSWER_WITHIN, sending).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(Error::transient("no time was left"))) {
            tracing::warn!(
                job = self.spec.name(),
                error = error.chain(),
                "sent messages stay in the outbox and may be sent again"
            );
        }
    }
}

/// Whether SQS takes the body with the attributes that we add: reason and error have at most 1,000 characters of four bytes, the
/// others are small.
fn fits_with_attributes(record: &Record) -> bool {
    record.body.len() + 10 * 1024 <= LARGEST_MESSAGE
}

/// A text as PostgreSQL, SQS and a person take it: one line, not too long, and never nothing.
fn legible(text: &str) -> String {
    let fits = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let line: String = text.chars().take(1000).map(|c| if fits(c) { c } else { ' ' }).collect();
    if line.trim().is_empty() {
        return "no reason given".to_owned();
    }
    line
}

/// SQS takes no empty body.
fn sendable_body(record: &Record) -> String {
    if record.body.is_empty() {
        "{}".to_owned()
    } else {
        record.body.clone()
    }
}

/// The next message of a chain: the same queue, a run key that counts.
fn continuation(spec: &Spec, opened: &Opened, next: &Value) -> Option<Outgoing> {
    let key = &opened.identity.run_key;
    let (root, link) = link(key).unwrap_or((key, 0));
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
