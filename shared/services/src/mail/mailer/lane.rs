//! Mails of one lane on their way: in the pace of the lane, as the breaker allows, one call each, and the answer into the ledger.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};

use super::{Mailer, Options, collect, postponed};
use crate::mail::breaker::{FAULTS_IN_A_ROW, Permit, Report};
use crate::mail::journal::Journal;
use crate::mail::ledger::{self, Dispatched, Status, Transition};
use crate::mail::pacing::{self, Lane, Quota, Reservation, Slot};
use crate::mail::ses::{self, Answer, Letter};
use crate::mail::stream::Stream;
use crate::{Database, Error, Kind, Timestamp};

/// After this many attempts a mail has failed.
const ATTEMPTS: i32 = 5;

/// A row that passed the gate, ready to leave.
pub(super) struct Ready {
    pub(super) id: String,
    pub(super) attempts: i32,
    pub(super) stream: Stream,
    pub(super) letter: Letter,
}

impl Mailer {
    /// What the breaker allows. A method of its own, because a guard in the head of a `match` is held to its end, and what follows
    /// from a permit asks the breaker again.
    async fn permit(&self, database: &Database) -> Result<Permit, Error> {
        self.breaker.lock().await.permit(database.pool()).await
    }

    /// Sends the mails of one lane in chunks of a quarter second. The next chunk reserves its slot while the last one's answers
    /// are still coming, so that latency costs no rate.
    pub(super) async fn send_lane(
        &self,
        database: &Database,
        lane: Lane,
        mails: Vec<Ready>,
        quota: &Quota,
        options: Options<'_>,
    ) -> Result<Vec<Dispatched>, Error> {
        let exhausted = if lane == Lane::Bulk {
            quota.bulk_exhausted
        } else {
            quota.exhausted
        };
        if exhausted || !quota.sending_enabled {
            let until = options.at + chrono::Duration::minutes(15);
            let reason = if exhausted { "daily_quota" } else { "sending_disabled" };
            return self.postpone(database, &mails, until, reason).await;
        }
        let size = match self.permit(database).await? {
            Permit::Open(until) => return self.postpone(database, &mails, until, "circuit_open").await,
            Permit::Probe => return self.probe(database, lane, mails, quota, options).await,
            Permit::Closed => quota.chunk(lane),
        };
        let mut chunks = Vec::new();
        let mut mails = mails.into_iter().peekable();
        while mails.peek().is_some() {
            chunks.push(mails.by_ref().take(size).collect::<Vec<_>>());
        }
        let sending = futures::stream::iter(chunks)
            .map(|chunk| self.send_chunk(database, lane, chunk, quota, options, false))
            .buffered(2);
        collect(sending.collect().await)
    }

    /// One mail at a time while the breaker is half open; back to normal once it has closed.
    async fn probe(
        &self,
        database: &Database,
        lane: Lane,
        mails: Vec<Ready>,
        quota: &Quota,
        options: Options<'_>,
    ) -> Result<Vec<Dispatched>, Error> {
        let mut moved = Vec::new();
        let mut mails = mails.into_iter();
        while let Some(mail) = mails.next() {
            moved.extend(
                self.send_chunk(database, lane, vec![mail], quota, options, true)
                    .await?,
            );
            if mails.len() == 0 {
                // Who asks takes the next probe, and would keep it from others until its lease ends.
                break;
            }
            match self.permit(database).await? {
                Permit::Probe => {}
                Permit::Open(until) => {
                    moved.extend(
                        self.postpone(database, &mails.collect::<Vec<_>>(), until, "circuit_open")
                            .await?,
                    );
                    break;
                }
                Permit::Closed => {
                    moved.extend(Box::pin(self.send_lane(database, lane, mails.collect(), quota, options)).await?);
                    break;
                }
            }
        }
        Ok(moved)
    }

    async fn send_chunk(
        &self,
        database: &Database,
        lane: Lane,
        chunk: Vec<Ready>,
        quota: &Quota,
        options: Options<'_>,
        probing: bool,
    ) -> Result<Vec<Dispatched>, Error> {
        let slot = match self.reserve(database, lane, quota, chunk.len()).await? {
            Reservation::Granted(slot) => slot,
            Reservation::Full(until) => return self.postpone(database, &chunk, until, "rate_limited").await,
        };
        tokio::time::sleep(slot.wait).await;
        if !probing {
            // What was closed when the lane began may have opened while the chunk waited for its slot.
            match self.permit(database).await? {
                Permit::Open(until) => return self.postpone(database, &chunk, until, "circuit_open").await,
                Permit::Probe => return Box::pin(self.probe(database, lane, chunk, quota, options)).await,
                Permit::Closed => {}
            }
        }
        let ids: Vec<_> = chunk.iter().map(|mail| mail.id.clone()).collect();
        let due = options.at.max(chrono::Utc::now());
        let token = format!("{:032x}", rand::random::<u128>());
        let journal = self.journal(database).await?;
        journal.claim(&token);
        let claimed = match ledger::claim(database.pool(), &token, &ids, due).await {
            Ok(claimed) => claimed,
            Err(error) => {
                // It may have been carried out; nothing has left.
                if ledger::take_back(database.pool(), &token, &[]).await.is_ok() {
                    journal.settle(&token);
                }
                return Err(error);
            }
        };
        let mails: Vec<_> = chunk
            .into_iter()
            .filter_map(|mail| claimed.get(&mail.id).map(|&attempts| Ready { attempts, ..mail }))
            .collect();
        if let Some(turn) = options.turn {
            turn.pass();
        }
        let (answers, report) = self.call_all(&mails, slot, &token, journal).await;
        let transitions = self.judge(database, lane, &mails, answers, options).await;
        let moved = self.settle(database, &transitions).await?;
        journal.settle(&token);
        self.breaker.lock().await.report(database.pool(), report).await?;
        Ok(moved)
    }

    /// A bulk chunk takes its place in the bulk lane, and in the account's when its time has come.
    async fn reserve(
        &self,
        database: &Database,
        lane: Lane,
        quota: &Quota,
        mails: usize,
    ) -> Result<Reservation, Error> {
        let reservation = pacing::reserve(database.pool(), lane, quota.rate(lane), mails).await?;
        match (lane, reservation) {
            (Lane::Bulk, Reservation::Granted(slot)) => {
                tokio::time::sleep(slot.wait).await;
                match pacing::reserve(database.pool(), Lane::Account, quota.rate(Lane::Account), mails).await? {
                    Reservation::Granted(account) => Ok(Reservation::Granted(Slot {
                        wait: account.wait,
                        rate: slot.rate,
                    })),
                    full @ Reservation::Full(_) => Ok(full),
                }
            }
            (_, reservation) => Ok(reservation),
        }
    }

    /// Calls SES for each claimed mail, the k-th no sooner than `k / rate` after the first. Stops calling when the provider faults
    /// in a row; `None` stands for a call that was not made.
    async fn call_all(
        &self,
        mails: &[Ready],
        slot: Slot,
        token: &str,
        journal: &Arc<Journal>,
    ) -> (Vec<Option<Answer>>, Report) {
        let start = tokio::time::Instant::now();
        let report = Arc::new(std::sync::Mutex::new(Report::default()));
        let calls = mails.iter().enumerate().map(|(k, mail)| {
            let report = &report;
            async move {
                let due = start + Duration::from_secs_f64(k as f64 / slot.rate);
                // The timer knows no less than a millisecond.
                if due > tokio::time::Instant::now() + Duration::from_millis(1) {
                    tokio::time::sleep_until(due).await;
                }
                let _place = self.written.acquire().await;
                if self.in_flight.available_permits() == 0 {
                    // Nothing to hurry for: those that have a place leave first.
                    tokio::task::yield_now().await;
                }
                if is_broken(report) {
                    return None;
                }
                let departure = self.departure(report.clone(), journal.clone(), token, &mail.id);
                let answer = ses::send(self.ses(), &mail.letter, departure).await?;
                let mut report = lock(report);
                if answer.is_fault() {
                    report.fault();
                } else {
                    report.success();
                }
                Some(answer)
            }
        });
        let answers = futures::future::join_all(calls).await;
        let report = *lock(&report);
        (answers, report)
    }

    /// A written call leaves when there is room, unless the provider faults by then; the journal has it first.
    fn departure(
        &self,
        report: Arc<std::sync::Mutex<Report>>,
        journal: Arc<Journal>,
        token: &str,
        id: &str,
    ) -> ses::Departure {
        let (token, id): (Arc<str>, Arc<str>) = (token.into(), id.into());
        let in_flight = self.in_flight.clone();
        Arc::new(move || {
            let (report, journal, token, id) = (report.clone(), journal.clone(), token.clone(), id.clone());
            let place = in_flight.clone().acquire_owned();
            async move {
                let place = place.await.ok()?;
                if is_broken(&report) {
                    return None;
                }
                journal.begin(&token, &id);
                Some(place)
            }
            .boxed()
        })
    }

    /// The mails are out: it is worth a little patience to write that down.
    async fn settle(&self, database: &Database, transitions: &[Transition]) -> Result<Vec<Dispatched>, Error> {
        let mut waits = [100, 500, 1000].map(Duration::from_millis).into_iter();
        loop {
            match (
                ledger::transit(database.pool(), Status::Sending, transitions).await,
                waits.next(),
            ) {
                (Err(error), Some(wait)) if error.kind == Kind::Transient => {
                    tracing::warn!(error = error.chain(), "what became of mails is written again");
                    tokio::time::sleep(wait).await;
                }
                (result, _) => return result,
            }
        }
    }

    /// What each answer makes of its row (spec: comms, C1). Never fails: what SES has taken must be written down.
    async fn judge(
        &self,
        database: &Database,
        lane: Lane,
        mails: &[Ready],
        answers: Vec<Option<Answer>>,
        options: Options<'_>,
    ) -> Vec<Transition> {
        let unheard =
            |error: Error| tracing::warn!(error = error.chain(), "other processes do not learn what SES said");
        let too_fast = answers.iter().any(|answer| matches!(answer, Some(Answer::TooFast)));
        let lane_free = match too_fast {
            true => pacing::slow_down(database.pool(), lane).await.map_err(unheard).ok(),
            false => None,
        };
        let lane_free = lane_free.unwrap_or(options.at + chrono::Duration::seconds(1));
        let refusal = answers.iter().find_map(|answer| match answer {
            Some(Answer::AccountRefused(reason)) => Some(reason.clone()),
            _ => None,
        });
        let reopens = match &refusal {
            Some(reason) => self
                .breaker
                .lock()
                .await
                .force_open(database.pool(), reason)
                .await
                .map_err(unheard)
                .ok(),
            None => None,
        };
        let reopens = reopens.unwrap_or(options.at + chrono::Duration::minutes(15));
        if too_fast {
            *self.quota.lock().await = None;
        }
        let judge = |(mail, answer): (&Ready, Option<Answer>)| match answer {
            Some(Answer::Accepted(ses_message_id)) => Transition {
                ses_message_id: Some(ses_message_id),
                subject: Some(mail.letter.subject.expose().clone()),
                ..Transition::to(&mail.id, Status::Sent, None)
            },
            Some(Answer::NotAccepted(reason)) if mail.attempts >= ATTEMPTS => {
                Transition::to(&mail.id, Status::Failed, Some(&reason))
            }
            Some(Answer::NotAccepted(reason)) => {
                let wait = options
                    .retry_after
                    .map_or_else(|| backoff(mail.attempts), |after| after(mail.attempts));
                Transition {
                    faulted: true,
                    next_attempt_at: Some(options.at + wait),
                    ..Transition::to(&mail.id, Status::Pending, Some(&reason))
                }
            }
            Some(Answer::TooFast) => postponed(&mail.id, lane_free, "throttled", true),
            Some(Answer::QuotaUsedUp) => postponed(
                &mail.id,
                options.at + chrono::Duration::minutes(15),
                "daily_quota",
                true,
            ),
            Some(Answer::AccountRefused(reason)) => postponed(&mail.id, reopens, &reason, true),
            Some(Answer::Rejected(reason)) => Transition::to(&mail.id, Status::Failed, Some(&reason)),
            Some(Answer::InDoubt(reason)) => Transition::to(&mail.id, Status::Uncertain, Some(&reason)),
            // Due at once; whoever takes it asks the breaker first.
            None => postponed(&mail.id, options.at, "circuit_open", true),
        };
        mails.iter().zip(answers).map(judge).collect()
    }

    async fn postpone(
        &self,
        database: &Database,
        mails: &[Ready],
        until: Timestamp,
        reason: &str,
    ) -> Result<Vec<Dispatched>, Error> {
        let transitions: Vec<_> = mails
            .iter()
            .map(|mail| postponed(&mail.id, until, reason, false))
            .collect();
        ledger::transit(database.pool(), Status::Pending, &transitions).await
    }
}

fn is_broken(report: &std::sync::Mutex<Report>) -> bool {
    lock(report).in_a_row >= FAULTS_IN_A_ROW
}

fn lock(report: &std::sync::Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// 60 s, doubled up to an hour, ± 10 % (spec: comms, C1).
fn backoff(attempts: i32) -> Duration {
    let doublings = attempts.clamp(1, 7).unsigned_abs() - 1;
    let plain = Duration::from_secs((60 << doublings).min(3600));
    plain.mul_f64(rand::random_range(0.9..=1.1))
}
