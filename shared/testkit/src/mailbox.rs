//! A stand-in for the Amazon SES v2 API: takes mail, keeps it, and fails the way SES fails.

mod api;
mod mail;
mod script;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use mail::Mail;
pub use script::Answer;
use script::Script;
use tokio::sync::watch;

use crate::http::Background;

/// The SES of one test. Clones are the same.
#[derive(Clone, Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
    address: String,
    _server: Arc<Background>,
}

type Shared = Mutex<State>;

#[derive(Debug)]
struct State {
    script: Script,
    latency: Duration,
    account: Account,
    keep: bool,
    mails: Vec<Mail>,
    accepted: watch::Sender<usize>,
    calls: usize,
    /// By value of the message tags `dedupe` and `email_id`.
    tagged: HashMap<Box<str>, u32>,
}

/// What `GetAccount` answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Recipients a second.
    pub max_send_rate: f64,
    /// Recipients a day; -1 is unlimited.
    pub max_24_hour_send: f64,
    /// Recipients before this mailbox began; those since are added.
    pub sent_last_24_hours: f64,
    /// Whether the account may send.
    pub sending_enabled: bool,
    /// `HEALTHY`, `PROBATION` or `SHUTDOWN`.
    pub enforcement_status: String,
}

impl Default for Account {
    /// A healthy account without limits that a test would meet.
    fn default() -> Self {
        Self {
            max_send_rate: 10_000.0,
            max_24_hour_send: -1.0,
            sent_last_24_hours: 0.0,
            sending_enabled: true,
            enforcement_status: "HEALTHY".to_owned(),
        }
    }
}

impl Mailbox {
    /// An empty mailbox on a free port that answers at once.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub async fn start() -> io::Result<Self> {
        let state = State {
            script: Script::default(),
            latency: Duration::ZERO,
            account: Account::default(),
            keep: true,
            mails: Vec::new(),
            accepted: watch::Sender::new(0),
            calls: 0,
            tagged: HashMap::new(),
        };
        let shared = Arc::new(Mutex::new(state));
        let (server, address) = Background::serve(api::Api(shared.clone())).await?;
        Ok(Self {
            shared,
            address: format!("http://{address}"),
            _server: Arc::new(server),
        })
    }

    /// What `AWS_ENDPOINT_URL_SESV2` is to be.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How long each answer takes from now on.
    pub fn latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Keeps no mail from now on, only numbers: for benchmarks.
    pub fn count_only(&self) {
        self.state().keep = false;
    }

    /// The next `count` sends get this answer.
    pub fn fail_next(&self, count: usize, answer: Answer) {
        self.state().script.next.extend(std::iter::repeat_n(answer, count));
    }

    /// Every `nth` send gets this answer; one such rule for each kind of answer.
    pub fn fail_every(&self, nth: usize, answer: Answer) {
        self.state().script.every.insert(answer, nth);
    }

    /// Every send to this address gets this answer.
    pub fn fail_to(&self, address: &str, answer: Answer) {
        self.state().script.to.insert(address.to_owned(), answer);
    }

    /// Forgets all answers that were arranged; the rate limit, too.
    pub fn recover(&self) {
        self.state().script = Script::default();
    }

    /// Answers [`Answer::TooManyRequests`] beyond this many recipients a second.
    pub fn limit_rate(&self, per_second: f64, burst: f64) {
        self.state().script.limit(per_second, burst);
    }

    /// Changes what `GetAccount` answers.
    pub fn account(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.state().account);
    }

    /// Every mail that was accepted, in order.
    pub fn mails(&self) -> Vec<Mail> {
        self.state().mails.clone()
    }

    /// Those with this recipient.
    pub fn sent_to(&self, address: &str) -> Vec<Mail> {
        self.state()
            .mails
            .iter()
            .filter(|mail| mail.to.iter().any(|to| to == address))
            .cloned()
            .collect()
    }

    /// Those with this value of a message tag, e.g. `tagged("email_id", id)`.
    pub fn tagged(&self, tag: &str, value: &str) -> Vec<Mail> {
        let with_tag = |mail: &&Mail| mail.tags.get(tag).is_some_and(|tagged| tagged == value);
        self.state().mails.iter().filter(with_tag).cloned().collect()
    }

    /// How many were accepted; also with [`count_only`](Self::count_only).
    pub fn accepted(&self) -> usize {
        *self.state().accepted.borrow()
    }

    /// Waits until so many were accepted.
    pub async fn reaches(&self, accepted: usize) {
        let mut count = self.state().accepted.subscribe();
        // The sender is ours: it does not go while we wait.
        let _ = count.wait_for(|count| *count >= accepted).await;
    }

    /// How many sends arrived, whatever their answer.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// How many were accepted more than once, known by the tag `dedupe`, else `email_id`.
    pub fn doubled(&self) -> usize {
        self.state()
            .tagged
            .values()
            .map(|&count| count.saturating_sub(1) as usize)
            .sum()
    }

    /// How often each was accepted, known by the tag `dedupe`, else `email_id`.
    pub fn counts(&self) -> HashMap<String, u32> {
        self.state()
            .tagged
            .iter()
            .map(|(tag, count)| (tag.to_string(), *count))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
