use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::{Datelike, NaiveTime};
use futures::{FutureExt, StreamExt};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, Semaphore};

use super::breaker::{Breaker, FAULTS_IN_A_ROW, Permit, Report};
use super::gate::{self, Audience, Circumstances, Gate};
use super::journal::{self, Journal};
use super::ledger::{self, Dispatched, Status, Transition};
use super::pacing::{self, Lane, Quota, Reservation, Slot};
use super::ses::{self, Answer, Letter};
use super::stream::{Category, Stream};
use super::templates::{self, Layout, Site, Template};
use super::unsubscribe::Claim;
use super::{Settings, mailable};
use crate::{Aws, Database, Error, Kind, Redacted, Timestamp, local_time};

/// After this many attempts a mail has failed.
const ATTEMPTS: i32 = 5;
/// The fewest and the most rows of the gate's one query, and of one transition.
const PAGE: RangeInclusive<usize> = 50..=500;
/// How long the quota is believed without reading its row again.
const QUOTA_MEMORY: Duration = Duration::from_secs(2);

/// Sends what the ledger holds. One per function instance; keeps only what may be lost.
#[derive(Debug)]
pub struct Mailer {
    aws: Aws,
    ses: OnceLock<aws_sdk_sesv2::Client>,
    settings: Settings,
    site: Site,
    in_flight: Arc<Semaphore>,
    written: Semaphore,
    turn: Arc<Mutex<()>>,
    breaker: Mutex<Breaker>,
    quota: Mutex<Option<(Instant, Quota)>>,
    journal: OnceCell<Arc<Journal>>,
}

/// Whose page of mails is prepared. It is passed on when the first of them are about to leave: of two pages that are prepared at once,
/// both are late.
#[derive(Debug)]
pub struct Turn(std::sync::Mutex<Option<OwnedMutexGuard<()>>>);

impl Turn {
    fn pass(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

/// How to dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// "Now" for the rules about the mails; pace, leases and breaker go by the real clock.
    pub at: Timestamp,
    /// The wait after the n-th attempt of a mail, instead of the ledger's own, for callers who come back sooner.
    pub retry_after: Option<fn(i32) -> Duration>,
    /// The caller's turn, if it took one to prepare the first page.
    pub turn: Option<&'a Turn>,
}

/// A row that passed the gate, ready to leave.
struct Ready {
    id: String,
    attempts: i32,
    stream: Stream,
    letter: Letter,
}

/// A row as the gate sees it.
struct Mail {
    id: String,
    dedup_key: String,
    user_id: Option<String>,
    to: Redacted<String>,
    stream: Stream,
    category: Category,
    template: String,
    /// JSON, as the template reads it.
    variables: String,
    campaign_id: Option<String>,
    /// Opens and clicks may be tracked.
    tracked: bool,
    attempts: i32,
    audience: Audience,
    circumstances: Circumstances,
}

impl Mailer {
    /// A mailer on this configuration.
    pub fn new(aws: &Aws, settings: Settings) -> Result<Self, Error> {
        let mut site = Site::new(&settings.app_url, &settings.postal_address)
            .map_err(|error| Error::permanent("APP_URL is no URL").caused_by(error))?;
        site.support_url.clone_from(&settings.support_url);
        Ok(Self {
            aws: aws.clone(),
            ses: OnceLock::new(),
            in_flight: Arc::new(Semaphore::new(settings.in_flight)),
            // Those on the way, and as many that wait for their turn.
            written: Semaphore::new(2 * settings.in_flight),
            turn: Arc::default(),
            breaker: Mutex::new(Breaker::new(&settings.sender_domain)),
            quota: Mutex::new(None),
            journal: OnceCell::new(),
            site,
            settings,
        })
    }

    /// Takes back what dead predecessors of this process had claimed and not sent. [`Mailer::dispatch`] does that before it claims;
    /// who may end without dispatching anything does it first.
    pub async fn recover(&self, database: &Database) -> Result<(), Error> {
        self.journal(database).await.map(drop)
    }

    fn ses(&self) -> &aws_sdk_sesv2::Client {
        self.ses.get_or_init(|| ses::client(&self.aws))
    }

    /// The domain that mail comes from; part of every row.
    pub fn sender_domain(&self) -> &str {
        &self.settings.sender_domain
    }

    /// The pages in which to write mails and have them sent, two at a time. The first one is short: until its mails leave, none is on its
    /// way.
    pub fn pages<'a, T>(&self, items: &'a [T]) -> impl Iterator<Item = &'a [T]> {
        let (first, rest) = items.split_at(items.len().min(2 * self.settings.in_flight));
        std::iter::once(first)
            .filter(|first| !first.is_empty())
            .chain(rest.chunks(self.page()))
    }

    /// How many mails to prepare at a time: enough to keep the calls to SES busy while the next ones are prepared.
    fn page(&self) -> usize {
        (4 * self.settings.in_flight).clamp(*PAGE.start(), *PAGE.end())
    }

    /// Sends those of the rows that are PENDING and due: gate, pace, claim, one call each, and the result into the ledger. Rows
    /// that are somebody else's by now are left out of the answer. One page is prepared while the last one is being sent.
    pub async fn dispatch(
        &self,
        database: &Database,
        ids: &[String],
        options: Options<'_>,
    ) -> Result<Vec<Dispatched>, Error> {
        let pages = ids.chunks(self.page()).enumerate();
        let sending = futures::stream::iter(pages)
            .map(|(number, page)| async move {
                let own;
                let turn = match options.turn.filter(|_| number == 0) {
                    Some(turn) => turn,
                    None => {
                        own = self.turn().await;
                        &own
                    }
                };
                let options = Options {
                    turn: Some(turn),
                    ..options
                };
                let moved = self.dispatch_page(database, page, options).await;
                // It may be that nothing has left.
                turn.pass();
                moved
            })
            .buffered(2);
        // To the end, whatever fails: what is being sent must be written down.
        collect(sending.collect().await)
    }

    /// Waits until no page is being prepared. Who prepares the mails that it dispatches takes its turn before.
    pub async fn turn(&self) -> Turn {
        Turn(std::sync::Mutex::new(Some(self.turn.clone().lock_owned().await)))
    }

    async fn dispatch_page(
        &self,
        database: &Database,
        ids: &[String],
        options: Options<'_>,
    ) -> Result<Vec<Dispatched>, Error> {
        let quota = self.quota(database).await?;
        let (mails, mut refused) = load(database, ids, options.at, &quota).await?;
        let (ready, stopped) = self.pass_gate(mails, options.at);
        refused.extend(stopped);
        let mut moved = ledger::transit(database.pool(), Status::Pending, &refused).await?;
        let mut lanes: HashMap<Lane, Vec<Ready>> = HashMap::new();
        for mail in ready {
            lanes.entry(Lane::of(mail.stream)).or_default().push(mail);
        }
        for lane in [Lane::Account, Lane::Bulk] {
            if let Some(mails) = lanes.remove(&lane) {
                moved.extend(self.send_lane(database, lane, mails, &quota, options).await?);
            }
        }
        Ok(moved)
    }

    /// The quota; one process a minute asks SES for it, and each while nobody knows it.
    async fn quota(&self, database: &Database) -> Result<Quota, Error> {
        let mut memory = self.quota.lock().await;
        if let Some((at, quota)) = &*memory
            && at.elapsed() < QUOTA_MEMORY
        {
            return Ok(quota.clone());
        }
        let mut quota = pacing::quota(database.pool()).await?;
        if quota.unknown || (quota.stale && pacing::win_refresh(database.pool()).await?) {
            match ses::account(self.ses()).await {
                Ok(account) => {
                    pacing::store(database.pool(), &account).await?;
                    quota = pacing::quota(database.pool()).await?;
                }
                // The old numbers stand for another minute.
                Err(error) => tracing::warn!(error = error.chain(), "the SES quota could not be refreshed"),
            }
        }
        *memory = Some((Instant::now(), quota.clone()));
        Ok(quota)
    }

    fn pass_gate(&self, mails: Vec<Mail>, at: Timestamp) -> (Vec<Ready>, Vec<Transition>) {
        let (mut ready, mut refused) = (Vec::with_capacity(mails.len()), Vec::new());
        let mut accepted: HashMap<(String, Stream), i64> = HashMap::new();
        for mut mail in mails {
            let Some(template) = templates::find(&mail.template) else {
                let reason = format!("template_error: unknown template `{}`", mail.template);
                refused.push(Transition::to(&mail.id, Status::Failed, Some(&reason)));
                continue;
            };
            let so_far = mail
                .user_id
                .clone()
                .map(|user| accepted.entry((user, mail.stream)).or_default());
            let in_page = so_far.as_deref().copied().unwrap_or(0);
            mail.circumstances.marketing_sent += in_page;
            mail.circumstances.notifications_sent += in_page;
            match gate::ask(&mail.circumstances, template, &mail.audience, at) {
                Gate::Open => match self.letter(&mail, template, at) {
                    Ok(letter) => {
                        if let Some(count) = so_far {
                            *count += 1;
                        }
                        ready.push(Ready {
                            id: mail.id,
                            attempts: mail.attempts,
                            stream: mail.stream,
                            letter,
                        });
                    }
                    Err(reason) => refused.push(Transition::to(&mail.id, Status::Failed, Some(&reason))),
                },
                Gate::Refused(status, reason) => refused.push(Transition::to(&mail.id, status, Some(reason))),
                Gate::Held => refused.push(Transition::to(&mail.id, Status::Held, None)),
                Gate::Postponed(until, reason) => refused.push(postponed(&mail.id, until, reason, false)),
            }
        }
        (ready, refused)
    }

    fn letter(&self, mail: &Mail, template: &Template, at: Timestamp) -> Result<Letter, String> {
        let to = mailable(mail.to.expose()).ok_or("invalid_address")?;
        let unsubscribe = (mail.stream != Stream::Essential).then(|| {
            let claim = Claim {
                user_id: mail.user_id.clone(),
                address_hash: Claim::hash(mail.to.expose()),
                category: mail.category.as_str().to_owned(),
                digest: (mail.stream == Stream::Digest).then(|| template.key.to_owned()),
                campaign_id: mail.campaign_id.clone(),
                email_id: mail.id.clone(),
            };
            format!(
                "{}/api/email/unsubscribe/{}",
                self.settings.app_url,
                self.settings.signer.sign(&claim)
            )
        });
        let layout = Layout {
            site: &self.site,
            time_zone: mail.circumstances.zone,
            year: at.with_timezone(&mail.circumstances.zone).year(),
            unsubscribe_url: unsubscribe.as_deref(),
        };
        let rendered =
            templates::render(&mail.template, &mail.variables, &layout).map_err(|error| error.to_string())?;
        let mut tags = vec![
            ("email_id", mail.id.clone()),
            ("dedupe", mail.dedup_key.clone()),
            ("stream", mail.stream.as_str().to_owned()),
            ("category", mail.category.as_str().to_owned()),
            ("template", template.key.to_owned()),
        ];
        tags.extend(mail.campaign_id.clone().map(|id| ("campaign_id", id)));
        let headers = unsubscribe.iter().flat_map(|url| {
            [
                ("List-Unsubscribe", Redacted::new(format!("<{url}>"))),
                (
                    "List-Unsubscribe-Post",
                    Redacted::new("List-Unsubscribe=One-Click".to_owned()),
                ),
            ]
        });
        Ok(Letter {
            from: self.settings.from.clone(),
            reply_to: self.settings.reply_to.clone(),
            to: to.into(),
            subject: rendered.subject.into(),
            text: rendered.text.into(),
            html: rendered.html.into(),
            headers: headers.collect(),
            tags,
            configuration_set: match mail.stream {
                Stream::Essential | Stream::Notification => self.settings.transactional_set.clone(),
                Stream::Digest | Stream::Marketing if mail.tracked => self.settings.bulk_set.clone(),
                Stream::Digest | Stream::Marketing => self.settings.untracked_set.clone(),
            },
        })
    }

    /// What the breaker allows. A method of its own, because a guard in the head of a `match` is held to its end, and what follows
    /// from a permit asks the breaker again.
    async fn permit(&self, database: &Database) -> Result<Permit, Error> {
        self.breaker.lock().await.permit(database.pool()).await
    }

    /// Sends the mails of one lane in chunks of a quarter second. The next chunk reserves its slot while the last one's answers
    /// are still coming, so that latency costs no rate.
    async fn send_lane(
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

    /// The journal of this process; opening it takes back what dead predecessors had claimed from the same ledger.
    async fn journal(&self, database: &Database) -> Result<&Arc<Journal>, Error> {
        let open = async || {
            let options = database.pool().connect_options();
            let ledger = format!(
                "{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            );
            let folder = std::env::temp_dir().join("yesgoddess-mail").join(Claim::hash(&ledger));
            for remains in journal::abandoned(&folder) {
                for claim in &remains.claims {
                    ledger::take_back(database.pool(), &claim.token, &claim.begun).await?;
                }
                remains.bury();
            }
            Ok(Arc::new(Journal::open(&folder)))
        };
        self.journal.get_or_try_init(open).await
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

fn collect(results: Vec<Result<Vec<Dispatched>, Error>>) -> Result<Vec<Dispatched>, Error> {
    results.into_iter().try_fold(Vec::new(), |mut all, result| {
        all.extend(result?);
        Ok(all)
    })
}

fn postponed(id: &str, until: Timestamp, reason: &str, refund: bool) -> Transition {
    Transition {
        next_attempt_at: Some(until),
        refund,
        ..Transition::to(id, Status::Pending, Some(reason))
    }
}

/// 60 s, doubled up to an hour, ± 10 % (spec: comms, C1).
fn backoff(attempts: i32) -> Duration {
    let doublings = attempts.clamp(1, 7).unsigned_abs() - 1;
    let plain = Duration::from_secs((60 << doublings).min(3600));
    plain.mul_f64(rand::random_range(0.9..=1.1))
}

/// The gate's one query: mails, recipients, preferences, suppressions, counters. A row that no program of ours wrote fails alone.
async fn load(
    database: &Database,
    ids: &[String],
    at: Timestamp,
    quota: &Quota,
) -> Result<(Vec<Mail>, Vec<Transition>), Error> {
    let rows = sqlx::query!(
        r#"SELECT m.id, m.dedup_key, m.user_id, m.to_email, m.stream, m.category, m.template, coalesce(m.variables, '{}')::text AS "variables!", m.priority,
                  m.campaign_id, m.attempts, m.expires_at,
                  r.user_id IS NOT NULL AS "known!", coalesce(r.active, false) AS "active!", coalesce(r.verified, false) AS "verified!",
                  coalesce(r.unsubscribed, false) AS "unsubscribed!", coalesce(m.category = ANY(r.categories_off), false) AS "category_off!",
                  coalesce(r.email_frequency, 'IMMEDIATE') AS "email_frequency!", coalesce(r.tracking_enabled, true) AS "tracked!",
                  coalesce(r.time_zone, 'UTC') AS "time_zone!",
                  r.quiet_hours_start AS "quiet_hours_start?: NaiveTime", r.quiet_hours_end AS "quiet_hours_end?: NaiveTime",
                  coalesce(NOT c.enabled, false) AS "channel_off!", s.reason AS "suppression?", s.scope AS "scope?",
                  CASE WHEN m.stream = 'MARKETING' THEN (SELECT count(*) FROM email_messages x WHERE x.user_id = m.user_id
                       AND x.stream = 'MARKETING' AND x.sent_at > $2 - interval '24 hours') ELSE 0 END AS "marketing_sent!",
                  CASE WHEN m.stream = 'NOTIFICATION' THEN (SELECT count(*) FROM email_messages x WHERE x.user_id = m.user_id
                       AND x.stream = 'NOTIFICATION' AND x.sent_at > $2 - interval '1 hour') ELSE 0 END AS "notifications_sent!"
           FROM email_messages m
           LEFT JOIN mail_recipients r ON r.user_id = m.user_id
           LEFT JOIN email_suppressions s ON s.email = m.to_email AND (s.expires_at IS NULL OR s.expires_at > $2)
           LEFT JOIN notifications n ON n.id = m.notification_id
           LEFT JOIN notification_channel_preferences c ON c.user_id = m.user_id AND c.notification_type = n.type AND c.channel = 'EMAIL'
           WHERE m.id = ANY($1) AND m.status = 'PENDING' AND m.next_attempt_at <= greatest($2, clock_timestamp())"#,
        ids,
        at,
    )
    .fetch_all(database.pool())
    .await?;
    let (mut mails, mut unknown) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let (stream, category) = match (row.stream.parse::<Stream>(), row.category.parse::<Category>()) {
            (Ok(stream), Ok(category)) => (stream, category),
            (Err(error), _) | (_, Err(error)) => {
                unknown.push(Transition::to(&row.id, Status::Failed, Some(&error.to_string())));
                continue;
            }
        };
        mails.push(Mail {
            dedup_key: row.dedup_key,
            user_id: row.user_id,
            to: row.to_email.into(),
            stream,
            category,
            template: row.template,
            variables: row.variables,
            campaign_id: row.campaign_id,
            tracked: row.tracked,
            attempts: row.attempts,
            audience: Audience {
                known: row.known,
                active: row.active,
                verified: row.verified,
                unsubscribed: row.unsubscribed,
                category_off: row.category_off,
                channel_off: row.channel_off,
                suppression: row.suppression.zip(row.scope),
            },
            circumstances: Circumstances {
                stream,
                urgent: row.priority == "URGENT",
                expires_at: row.expires_at,
                marketing_paused: quota.marketing_paused,
                email_frequency: row.email_frequency,
                zone: local_time::zone(&row.time_zone),
                quiet_hours: row.quiet_hours_start.zip(row.quiet_hours_end),
                marketing_sent: row.marketing_sent,
                notifications_sent: row.notifications_sent,
            },
            id: row.id,
        });
    }
    Ok((mails, unknown))
}
