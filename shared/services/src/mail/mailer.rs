mod lane;
mod mail;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::Datelike;
use futures::StreamExt;
use lane::Ready;
use mail::Mail;
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, Semaphore};

use super::breaker::Breaker;
use super::gate::{self, Gate};
use super::journal::{self, Journal};
use super::ledger::{self, Dispatched, Status, Transition};
use super::pacing::{self, Lane, Quota};
use super::ses::{self, Letter};
use super::stream::Stream;
use super::templates::{self, Layout, Site, Template};
use super::unsubscribe::Claim;
use super::{Settings, mailable};
use crate::{Aws, Database, Error, Redacted, Timestamp};

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
        let (mails, mut refused) = mail::load(database, ids, options.at, &quota).await?;
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
