//! SQS in memory: its rules, its protocol, its event source, and a clock that tests can move.
//!
//! Queues appear when they are first named. Time stands still under [`Clock::Virtual`] until
//! [`Queue::advance`] moves it, so that nothing becomes due by accident and no test waits.

mod api;
mod source;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
pub use source::{Batches, Drained};
use store::{Draft, Store};
use tokio::sync::Notify;

use crate::http::Background;

const ACCOUNT: &str = "000000000000";

/// The SQS of one test: any number of queues behind one address. Clones are the same.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
    _server: Arc<Background>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    /// A message came, or became visible.
    arrived: Notify,
    address: String,
    clock: Clock,
}

/// Where time comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// It stands still but for [`Queue::advance`], and draining jumps to whatever is due next.
    #[default]
    Virtual,
    /// It passes by itself; `advance` adds to it.
    Real,
}

/// The settings of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a received message stays hidden.
    pub visibility: Duration,
    /// When to give a message up.
    pub redrive: Option<Redrive>,
}

/// A redrive policy: the receive after `max_receives` moves the message instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// `maxReceiveCount`.
    pub max_receives: u32,
    /// The name of the dead-letter queue.
    pub dead_letters: String,
}

impl Default for Rules {
    /// What AWS gives a queue made without attributes.
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            redrive: None,
        }
    }
}

/// A message as it lies in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// What `SendMessage` answered.
    pub id: String,
    /// The text.
    pub body: String,
    /// Its string attributes.
    pub attributes: BTreeMap<String, String>,
    /// How often it was given out.
    pub receives: u32,
    /// Zero when it is visible.
    pub hidden_for: Duration,
}

impl Message {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

impl Queue {
    /// An empty SQS on a free port.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub async fn start(clock: Clock) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let store = Mutex::new(Store::new(clock, crate::seed()));
        let shared = Arc::new(Shared {
            store,
            arrived: Notify::new(),
            address,
            clock,
        });
        let api = api::Api(shared.clone());
        let server = Background::spawn(async move { crate::http::serve(&listener, api).await });
        Ok(Self {
            shared,
            _server: Arc::new(server),
        })
    }

    /// What `AWS_ENDPOINT_URL_SQS` is to be.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The URL of a queue; of the prefix of several, too.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.shared.address)
    }

    /// Sets the rules of a queue.
    pub fn configure(&self, name: &str, rules: Rules) {
        self.store().configure(name, rules);
    }

    /// Puts a message into a queue; answers its id.
    pub fn send(&self, name: &str, body: impl Into<String>) -> String {
        self.send_with(name, body, BTreeMap::new(), Duration::ZERO)
    }

    /// As [`send`](Self::send), with attributes and a delay.
    pub fn send_with(
        &self,
        name: &str,
        body: impl Into<String>,
        attributes: BTreeMap<String, String>,
        delay: Duration,
    ) -> String {
        let draft = Draft::new(&body.into(), attributes, delay);
        let id = self.store().send(name, draft);
        self.shared.arrived.notify_waiters();
        store::show_id(id)
    }

    /// Everything in a queue: visible, in flight and delayed, oldest first.
    pub fn messages(&self, name: &str) -> Vec<Message> {
        self.store().messages(name)
    }

    /// The names of all queues so far.
    pub fn names(&self) -> Vec<String> {
        self.store().names()
    }

    /// Moves the clock forward: delayed and hidden messages become due.
    pub fn advance(&self, by: Duration) {
        self.store().advance(by);
        self.shared.arrived.notify_waiters();
    }

    /// How long until a queue has something to give out: zero = now, `None` = it is empty.
    pub fn next_due(&self, name: &str) -> Option<Duration> {
        self.store().next_due(name)
    }

    /// From now on, gives some messages out twice (the share, 0.0 to 1.0; early or late), and in any order.
    /// `JOBS_SEED` repeats a course of events.
    pub fn misbehave(&self, duplicates: f64, reorder: bool) {
        self.store().misbehave(duplicates, reorder);
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store()
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
