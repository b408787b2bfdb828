use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use jobs::{DigestFrequency, Id, SendDigests, Timestamp};
use runtime::{Failure, Outcome, Run, continued, done};
use serde::Serialize;
use services::Error;
use services::mail::{Dispatched, Options, Status};

use crate::page::{Audience, Hours, Users};
use crate::{Claim, Digest, Frequency, Page, settle};

/// Pages that are claimed at the same time: the statement of one keeps no more than one core of the database busy.
const CLAIMING: usize = 2;
/// Pages that are claimed or sent at the same time; more would only wait for the function's few connections.
const UNDER_WAY: usize = 3;
/// Mails that are begun together take no longer than this, as far as the last ones tell.
const STRETCH: Duration = Duration::from_secs(20);
/// The statement of a page has committed by then, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the ledger of runs hears how far this one is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Users whose slot is due and who have no delivery yet.
    considered: usize,
    /// Of these, whose delivery this run has written.
    claimed: usize,
    /// Of these, who had no items.
    empty: usize,
    sent: usize,
    uncertain: usize,
    failed: usize,
    suppressed: usize,
    /// By reason.
    skipped: BTreeMap<String, usize>,
    /// Left for `email-dispatch`.
    deferred: usize,
    pages: usize,
    unknown_zones: usize,
    duration_ms: u128,
}

impl Report {
    fn count(&mut self, sent: Sent) {
        self.deferred += sent.mails - sent.moved.len();
        for mail in sent.moved {
            match mail.status {
                Status::Sent => self.sent += 1,
                Status::Uncertain => self.uncertain += 1,
                Status::Failed => self.failed += 1,
                Status::Suppressed => self.suppressed += 1,
                Status::Pending | Status::Sending | Status::Held => self.deferred += 1,
                Status::Skipped | Status::Expired | Status::Cancelled | Status::Digested => {
                    *self.skipped.entry(mail.reason.unwrap_or_default()).or_default() += 1;
                }
            }
        }
    }
}

/// What became of the mails of a page.
struct Sent {
    mails: usize,
    moved: Vec<Dispatched>,
}

/// How a function is set.
struct Settings {
    page: usize,
    share: usize,
}

impl Settings {
    fn from_env() -> Result<Self, Error> {
        let number = |name: &str, or: usize, range: std::ops::RangeInclusive<usize>| match std::env::var(name) {
            Ok(text) => text
                .parse()
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    Error::permanent(format!("{name} is not between {} and {}", range.start(), range.end()))
                }),
            Err(_) => Ok(or),
        };
        Ok(Self {
            page: number("DIGEST_PAGE", 200, 50..=500)?,
            share: number("DIGEST_SHARE", 100_000, 1..=10_000_000)?,
        })
    }
}

/// Sends the digests that are due, page by page, each claimed while those before it are being sent.
pub async fn send(digest: &Digest, message: SendDigests, run: &Run) -> Outcome {
    let (at, begun) = (run.as_of(), Instant::now());
    let settings = Settings::from_env()?;
    let (mailer, database) = (run.context().mailer()?, run.context().database());
    // Nobody may be left to claim, and then nothing else would free what a crash left claimed.
    mailer.recover(database).await?;
    let audience = audience(&message);
    let hours = Hours::due(database.pool(), digest.kind, &audience, at).await?;
    let mut report = Report {
        unknown_zones: hours.unknown_zones,
        ..Report::default()
    };
    if hours.is_empty() {
        return done(report);
    }
    let blank = Page {
        kind: digest.kind.as_str(),
        at,
        template: digest.template,
        category: digest.category.as_str(),
        sender_domain: mailer.sender_domain().to_owned(),
        ..Page::default()
    };
    let mut users = Users::new(digest.kind, &hours, &audience, message.cursor.as_ref(), settings.page);
    users.end_after(message.until.as_ref());
    let whole = message.cursor.is_none() && message.until.is_none() && message.user_ids.is_empty();
    let mut message = message;
    if users.are_many(database.pool()).await? && whole && run.attempt() == 1 {
        message.until = share_out(digest, &message, run, &users, settings.share, at).await?;
        users.end_after(message.until.as_ref());
    }

    let pace = Cell::new(settings.page);
    let (mut users, mut reading) = (Some(users), FuturesUnordered::new());
    let mut claiming: FuturesUnordered<LocalBoxFuture<'_, Result<Vec<Claim>, Failure>>> = FuturesUnordered::new();
    let mut sending: FuturesUnordered<LocalBoxFuture<'_, Result<Sent, Failure>>> = FuturesUnordered::new();
    let mut telling = FuturesUnordered::new();
    let (mut failure, mut finished, mut told) = (None, false, Instant::now());
    let mut cursor = message.cursor.clone();
    loop {
        let stopping = failure.is_some() || run.must_stop();
        let room = claiming.len() < CLAIMING && claiming.len() + sending.len() < UNDER_WAY;
        if room
            && !stopping
            && let Some(mut users) = users.take()
        {
            let (pool, blank) = (database.pool(), &blank);
            reading.push(async move { (users.next(pool, blank).await, users) });
        }
        // Whatever happened: what is claimed is sent, and what is sent is written down. What needs a connection is polled here, and to
        // its end: nobody would give back one that it was given, or waits for.
        let event = tokio::select! {
            Some((page, reader)) = reading.next() => match page {
                Err(error) => Err(error.into()),
                // Whoever goes on will read it again.
                Ok(_) if failure.is_some() || run.must_stop() => Ok(()),
                Ok(page) => {
                    finished = page.user_ids.is_empty();
                    if let Some(last) = page.user_ids.last() {
                        users = Some(reader);
                        cursor = last.parse().ok();
                        report.considered += page.user_ids.len();
                        claiming.push(Box::pin(claim(digest, run, page)));
                    }
                    Ok(())
                }
            },
            Some(claimed) = claiming.next() => claimed.map(|claims| {
                report.pages += 1;
                report.claimed += claims.len();
                report.empty += claims.iter().filter(|claim| claim.mail_id.is_none()).count();
                let (deliveries, mails): (Vec<_>, Vec<_>) = claims
                    .into_iter()
                    .filter_map(|claim| Some((claim.delivery_id, claim.mail_id?)))
                    .unzip();
                if !mails.is_empty() {
                    sending.push(Box::pin(send_page(run, deliveries, mails, at, &pace)));
                }
            }),
            Some(sent) = sending.next() => sent.map(|sent| report.count(sent)),
            Some(told) = telling.next() => told,
            else => break,
        };
        if let Err(error) = event {
            failure.get_or_insert(error);
        }
        if told.elapsed() > PROGRESS && telling.is_empty() {
            told = Instant::now();
            telling.push(run.progress(report.clone()));
        }
    }
    drop((reading, claiming, sending, telling));
    report.duration_ms = begun.elapsed().as_millis();
    match failure {
        Some(failure) => Err(failure),
        None if finished => done(report),
        None => {
            run.progress(&report).await?;
            continued(SendDigests {
                as_of: Some(at),
                cursor,
                ..message
            })
        }
    }
}

fn audience(message: &SendDigests) -> Audience {
    let frequencies: &[Frequency] = match message.frequency {
        DigestFrequency::Daily => &[Frequency::Daily],
        DigestFrequency::Weekly => &[Frequency::Weekly],
        DigestFrequency::All => &[Frequency::Daily, Frequency::Weekly],
    };
    Audience {
        frequencies: frequencies
            .iter()
            .map(|frequency| frequency.as_str().to_owned())
            .collect(),
        user_ids: (!message.user_ids.is_empty()).then(|| message.user_ids.iter().map(Id::to_string).collect()),
        forced: message.trigger_id.as_ref().filter(|_| message.force).map(Id::to_string),
    }
}

/// Enqueues all shares of a large slot but the first, and answers where that one ends. Should it be enqueued twice: claims.
async fn share_out(
    digest: &Digest,
    message: &SendDigests,
    run: &Run,
    users: &Users<'_>,
    share: usize,
    at: Timestamp,
) -> Result<Option<Id>, Failure> {
    let ends = users.shares(run.context().database().pool(), share as i64).await?;
    let untils = ends.iter().skip(1).map(|id| Some(id.clone())).chain([None]);
    let messages: Vec<_> = ends
        .iter()
        .zip(untils)
        .map(|(cursor, until)| SendDigests {
            as_of: Some(at),
            cursor: Some(cursor.clone()),
            until,
            ..message.clone()
        })
        .collect();
    if !messages.is_empty() {
        let mut tx = run.begin().await?;
        tx.enqueue(digest.job, &messages).await?;
        tx.commit().await?;
    }
    Ok(ends.into_iter().next())
}

/// Claims a page: the deliveries that are ours.
async fn claim(digest: &Digest, run: &Run, page: Page) -> Result<Vec<Claim>, Failure> {
    let pool = run.context().database().pool();
    let mut again = true;
    loop {
        let claimed = tokio::time::timeout(PATIENCE, (digest.claim)(pool, &page)).await;
        match claimed.map_err(|_| Error::transient("the statement of a page took too long"))? {
            // A forced digest of the same user took an item meanwhile; by now that can be seen.
            Err(sqlx::Error::Database(error)) if again && error.constraint() == Some("digest_items_pkey") => {
                again = false
            }
            claimed => return Ok(claimed.map_err(Error::from)?),
        }
    }
}

/// Sends the mails of a page, as many at a time as the last ones promise to leave within [`STRETCH`], so that the function never
/// meets its deadline with a page begun. What is left is `email-dispatch`'s.
async fn send_page(
    run: &Run,
    deliveries: Vec<String>,
    mails: Vec<String>,
    at: Timestamp,
    pace: &Cell<usize>,
) -> Result<Sent, Failure> {
    let (mailer, database) = (run.context().mailer()?, run.context().database());
    let mut moved = Vec::with_capacity(mails.len());
    let mut rest = &mails[..];
    while !rest.is_empty() && !run.must_stop() {
        let (now, later) = rest.split_at(pace.get().min(rest.len()));
        let begun = Instant::now();
        let options = Options {
            at,
            retry_after: None,
            turn: None,
        };
        moved.extend(mailer.dispatch(database, now, options).await?);
        let a_stretch = now.len() as f64 * STRETCH.as_secs_f64() / begun.elapsed().as_secs_f64().max(0.001);
        pace.set((a_stretch as usize).clamp(10, 500));
        rest = later;
    }
    settle(database.pool(), Some(&deliveries), deliveries.len() as i64).await?;
    Ok(Sent {
        mails: mails.len(),
        moved,
    })
}
