use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::FuturesUnordered;
use jobs::{DigestFrequency, Id, SendDigests, Timestamp};
use runtime::{Failure, Outcome, Run, continued, done};
use serde::Serialize;
use services::Error;
use services::mail::{Dispatched, Options, Status};

use crate::page::{Audience, Hours, Users};
use crate::{Claim, Digest, Frequency, Page, settle};

/// Pages that are being sent while the next one is claimed. More would only wait for the function's few connections.
const SENDING: usize = 1;
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
    let mut users = Users::new(digest.kind, &hours, &audience, message.cursor.as_ref());
    users.end_after(message.until.as_ref());
    let whole = message.cursor.is_none() && message.until.is_none() && message.user_ids.is_empty();
    let mut message = message;
    if users.are_many(database.pool()).await? && whole && run.attempt() == 1 {
        message.until = share_out(digest, &message, run, &users, settings.share, at).await?;
        users.end_after(message.until.as_ref());
    }

    let pace = Cell::new(settings.page);
    let mut sending: FuturesUnordered<LocalBoxFuture<'_, Result<Sent, Failure>>> = FuturesUnordered::new();
    let (mut failure, mut finished, mut told) = (None, false, Instant::now());
    while failure.is_none() && !finished && !run.must_stop() {
        let claiming = Box::pin(claim(digest, run, &mut users, settings.page, &blank));
        let claimed = meanwhile(claiming, &mut sending, &mut report, &mut failure).await;
        match claimed {
            Ok((0, _)) => finished = true,
            Ok((considered, claims)) => {
                report.considered += considered;
                report.claimed += claims.len();
                report.empty += claims.iter().filter(|claim| claim.mail_id.is_none()).count();
                report.pages += 1;
                let (deliveries, mails): (Vec<_>, Vec<_>) = claims
                    .into_iter()
                    .filter_map(|claim| Some((claim.delivery_id, claim.mail_id?)))
                    .unzip();
                if !mails.is_empty() {
                    sending.push(Box::pin(send_page(run, deliveries, mails, at, &pace)));
                }
            }
            Err(error) => failure = Some(error),
        }
        while sending.len() > SENDING
            && let Some(sent) = sending.next().await
        {
            take(sent, &mut report, &mut failure);
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            if let Err(error) = run.progress(&report).await {
                failure.get_or_insert(error);
            }
        }
    }
    // Whatever happened: what is being sent is written down.
    while let Some(sent) = sending.next().await {
        take(sent, &mut report, &mut failure);
    }
    drop(sending);
    report.duration_ms = begun.elapsed().as_millis();
    match failure {
        Some(failure) => Err(failure),
        None if finished => done(report),
        None => {
            run.progress(&report).await?;
            continued(SendDigests {
                as_of: Some(at),
                cursor: users.cursor.and_then(|cursor| cursor.parse().ok()),
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

/// Claims the next page: how many users it has, and the deliveries that are ours.
async fn claim(
    digest: &Digest,
    run: &Run,
    users: &mut Users<'_>,
    size: usize,
    blank: &Page,
) -> Result<(usize, Vec<Claim>), Failure> {
    let pool = run.context().database().pool();
    let page = users.next(pool, size, blank).await?;
    if page.user_ids.is_empty() {
        return Ok((0, Vec::new()));
    }
    let mut again = true;
    loop {
        let claimed = tokio::time::timeout(PATIENCE, (digest.claim)(pool, &page)).await;
        match claimed.map_err(|_| Error::transient("the statement of a page took too long"))? {
            // A forced digest of the same user took an item meanwhile; by now that can be seen.
            Err(sqlx::Error::Database(error)) if again && error.constraint() == Some("digest_items_pkey") => {
                again = false
            }
            claimed => return Ok((page.user_ids.len(), claimed.map_err(Error::from)?)),
        }
    }
}

/// Waits for a claim, and takes what was sent meanwhile.
async fn meanwhile<T>(
    mut claiming: LocalBoxFuture<'_, T>,
    sending: &mut FuturesUnordered<LocalBoxFuture<'_, Result<Sent, Failure>>>,
    report: &mut Report,
    failure: &mut Option<Failure>,
) -> T {
    loop {
        if sending.is_empty() {
            return claiming.await;
        }
        match select(claiming, sending.next()).await {
            Either::Left((claimed, _)) => return claimed,
            Either::Right((sent, still_claiming)) => {
                claiming = still_claiming;
                if let Some(sent) = sent {
                    take(sent, report, failure);
                }
            }
        }
    }
}

fn take(sent: Result<Sent, Failure>, report: &mut Report, failure: &mut Option<Failure>) {
    match sent {
        Ok(sent) => report.count(sent),
        Err(error) => {
            failure.get_or_insert(error);
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
