//! Everything a job touches, made for one test: a database, a mailbox, queues, storage, and its built function.
//!
//! ```no_run
//! # use serde_json::json;
//! # use testkit::{Answer, World};
//! # async fn a_retry_sends_only_what_is_missing(id: &str) {
//! let world = World::new("a_retry_sends_only_what_is_missing").await;
//! world.mailbox.fail_next(2, Answer::ServiceUnavailable);
//! world.deliver("notification-delivery", [json!({ "notificationId": id })]).await;
//! assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
//! # }
//! ```

mod ageing;
mod binary;
mod catalog;
mod database;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use binary::binary;
pub use catalog::Job;
use database::Database;
use serde_json::Value;
use sqlx::PgPool;

use crate::lambda::{Failure, Function, Lambda};
use crate::mailbox::Mailbox;
use crate::media;
use crate::queue::{Batches, Clock, Drained, Message, Queue, Redrive, Rules};
use crate::storage::Storage;
use crate::wire::{Proxies, Wire};

/// What every queue's name begins with in a test.
pub const QUEUE_PREFIX: &str = "yg-";

/// Of each function, when a test fails.
const LOG_LINES: usize = 40;

/// The world of one test. Its functions die with it, and its database goes unless the test panics.
#[derive(Debug)]
pub struct World {
    // Fields fall in order: functions before what they use.
    functions: Mutex<HashMap<String, Running>>,
    environment: Mutex<BTreeMap<String, String>>,
    instances: Mutex<HashMap<String, usize>>,
    jobs: Mutex<HashMap<String, Job>>,
    still: Mutex<Vec<String>>,
    /// Its database, migrated and empty.
    pub db: PgPool,
    /// Its SES.
    pub mailbox: Mailbox,
    /// Its SQS, where time stands still until something advances it.
    pub queue: Queue,
    /// Its S3. The bucket of assets is `assets`.
    pub storage: Storage,
    wire: Option<Arc<Wire>>,
    database: Database,
}

#[derive(Clone, Debug)]
struct Running {
    lambda: Lambda,
    _proxies: Option<Arc<Proxies>>,
}

impl World {
    /// A new world. The name, best the test's own, is part of the database's.
    ///
    /// # Panics
    ///
    /// With the reason, when something that it needs is missing.
    pub async fn new(name: &str) -> Self {
        Self::wired(name, None).await
    }

    pub(crate) async fn wired(name: &str, wire: Option<Arc<Wire>>) -> Self {
        let database = Database::create(name)
            .await
            .unwrap_or_else(|error| panic!("no database for {name}: {error:#}"));
        let db = database.pool();
        let mailbox = Mailbox::start().await.expect("a port for the mailbox");
        let queue = Queue::start(Clock::Virtual).await.expect("a port for the queue");
        let storage = Storage::start().await.expect("a port for the storage");
        let environment = Mutex::new(environment());
        let (functions, instances, jobs, still) = Default::default();
        Self {
            functions,
            environment,
            instances,
            jobs,
            still,
            db,
            mailbox,
            queue,
            storage,
            wire,
            database,
        }
    }

    /// The address of its database.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// Sets a variable for functions that start later.
    pub fn set(&self, name: &str, value: impl Into<String>) {
        lock(&self.environment).insert(name.to_owned(), value.into());
    }

    /// Gives a job this many processes, and its queue as much concurrency, from its next start on; otherwise one.
    pub fn scale(&self, job: &str, instances: usize) {
        lock(&self.instances).insert(job.to_owned(), instances);
    }

    /// Adds a job that the catalog does not have, or changes one that it has; before its function starts.
    pub fn define(&self, name: &str, job: Job) {
        lock(&self.jobs).insert(name.to_owned(), job);
    }

    /// Leaves a `table.column` alone when time [passes](Self::advance): it is a place in the calendar, and other rows know it by that.
    pub fn hold(&self, column: &str) {
        lock(&self.still).push(column.to_owned());
    }

    /// The job's function, started when it is not up yet.
    ///
    /// # Panics
    ///
    /// When it is not built, or not from the present sources, or does not start.
    pub async fn function(&self, name: &str) -> Lambda {
        if let Some(running) = lock(&self.functions).get(name) {
            return running.lambda.clone();
        }
        let Job {
            program,
            timeout,
            memory_mb,
            connections,
            visibility,
            max_receives,
            ..
        } = self.job(name);
        let redrive = Redrive {
            max_receives,
            dead_letters: dead_letter_queue(name),
        };
        self.queue.configure(
            &queue_name(name),
            Rules {
                visibility,
                redrive: Some(redrive),
            },
        );
        let proxies = match &self.wire {
            Some(wire) => {
                let upstream = [
                    self.database.url(),
                    self.mailbox.address(),
                    self.queue.address(),
                    self.storage.address(),
                ];
                Some(Arc::new(
                    Proxies::start(wire.clone(), upstream)
                        .await
                        .expect("ports for the proxies"),
                ))
            }
            None => None,
        };
        let [database, ses, sqs, s3] = match &proxies {
            Some(proxies) => proxies.addresses(),
            None => [
                self.database.url().to_owned(),
                self.mailbox.address().to_owned(),
                self.queue.address().to_owned(),
                self.storage.address().to_owned(),
            ],
        };
        let function = Function::new(program)
            .named(name)
            .env("DATABASE_POOL_SIZE", connections.to_string())
            .envs(lock(&self.environment).clone())
            .env("DATABASE_URL", database)
            .env("AWS_ENDPOINT_URL_SESV2", ses)
            .env("AWS_ENDPOINT_URL_SQS", &sqs)
            .env("AWS_ENDPOINT_URL_S3", s3)
            .env(
                "QUEUE_URL_PREFIX",
                self.queue.url(QUEUE_PREFIX).replace(self.queue.address(), &sqs),
            )
            .instances(lock(&self.instances).get(name).copied().unwrap_or(1))
            .timeout(timeout)
            .memory_mb(memory_mb);
        let lambda = Lambda::start(function)
            .await
            .unwrap_or_else(|failure| panic!("{name}: {failure}"));
        if let Some(proxies) = &proxies {
            proxies.aim_at(lambda.clone());
        }
        let running = Running {
            lambda: lambda.clone(),
            _proxies: proxies,
        };
        lock(&self.functions).insert(name.to_owned(), running);
        lambda
    }

    /// Invokes a job's function with an event of any shape.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub async fn invoke(&self, job: &str, event: Value) -> Result<Value, Failure> {
        self.function(job).await.invoke(&event).await
    }

    /// Puts messages into a job's queue.
    pub fn send(&self, job: &str, messages: impl IntoIterator<Item = Value>) {
        for message in messages {
            self.queue.send(&queue_name(job), message.to_string());
        }
    }

    /// Puts messages into a job's queue, then [drains](Self::drain) it.
    pub async fn deliver(&self, job: &str, messages: impl IntoIterator<Item = Value>) -> Drained {
        self.send(job, messages);
        self.drain(job).await
    }

    /// Delivers what is no message of the job. Each must die, of a reason that contains these words.
    ///
    /// # Panics
    ///
    /// When one does not.
    pub async fn refuses(&self, job: &str, bad: &[(Value, impl AsRef<str>)]) {
        self.deliver(job, bad.iter().map(|(message, _)| message.clone())).await;
        let dead = self.dead_letters(job);
        assert_eq!(dead.len(), bad.len(), "{dead:?}");
        for (message, reason) in bad {
            let (body, reason) = (message.to_string(), reason.as_ref());
            let mut letters = dead.iter().filter(|letter| letter.body == body);
            assert!(
                letters.any(|letter| letter.attributes["reason"].contains(reason)),
                "{body} is not dead because of {reason}: {dead:?}"
            );
        }
    }

    /// Lets the job work until its queue is empty. Whenever everything left is hidden, time [jumps](Self::advance)
    /// to the next message that is due.
    pub async fn drain(&self, job: &str) -> Drained {
        let function = self.function(job).await;
        let advance = async |wait| self.advance(wait).await;
        self.queue
            .drain_by(&queue_name(job), &function, self.batches(job), advance)
            .await
    }

    /// Lets the job work until nothing in its queue is visible; time stands still.
    pub async fn pump(&self, job: &str) -> Drained {
        let function = self.function(job).await;
        self.queue.pump(&queue_name(job), &function, self.batches(job)).await
    }

    /// What lies in a job's queue.
    pub fn queued(&self, job: &str) -> Vec<Message> {
        self.queue.messages(&queue_name(job))
    }

    /// What lies in a job's dead-letter queue.
    pub fn dead_letters(&self, job: &str) -> Vec<Message> {
        self.queue.messages(&dead_letter_queue(job))
    }

    /// Lets time pass: messages become due, and all that the database remembers is that much longer ago.
    ///
    /// # Panics
    ///
    /// When a constraint of the schema forbids that.
    pub async fn advance(&self, by: Duration) {
        self.queue.advance(by);
        if by > Duration::ZERO {
            let still = lock(&self.still).clone();
            ageing::age(&self.db, by, &still)
                .await
                .unwrap_or_else(|error| panic!("the database did not age: {error}"));
        }
    }

    fn batches(&self, name: &str) -> Batches {
        let concurrency = lock(&self.instances).get(name).copied().unwrap_or(1);
        Batches {
            size: self.job(name).batch,
            concurrency,
        }
    }

    fn job(&self, name: &str) -> Job {
        lock(&self.jobs)
            .entry(name.to_owned())
            .or_insert_with(|| Job::of_catalog(name))
            .clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            for (name, running) in lock(&self.functions).iter() {
                let logs = running.lambda.logs();
                let lines: Vec<&str> = logs.lines().collect();
                let last = lines.len().saturating_sub(LOG_LINES);
                eprintln!("what {name} said last:\n{}", lines[last..].join("\n"));
            }
        }
    }
}

/// The name of a job's queue.
pub fn queue_name(job: &str) -> String {
    format!("{QUEUE_PREFIX}{job}")
}

/// The name of a job's dead-letter queue.
pub fn dead_letter_queue(job: &str) -> String {
    format!("{QUEUE_PREFIX}{job}-dlq")
}

fn environment() -> BTreeMap<String, String> {
    let variables = [
        ("QUEUE_PREFIX", QUEUE_PREFIX),
        ("EMAIL_FROM_NAME", "YES GODDESS"),
        ("EMAIL_FROM_ADDRESS", "hello@mail.example.test"),
        ("EMAIL_REPLY_TO", "support@example.test"),
        ("EMAIL_POSTAL_ADDRESS", "YES GODDESS, 1 Example Street, Example City"),
        ("SES_CONFIGURATION_SET_TRANSACTIONAL", "transactional"),
        ("SES_CONFIGURATION_SET_BULK", "bulk"),
        ("SES_CONFIGURATION_SET_BULK_UNTRACKED", "bulk-untracked"),
        ("APP_URL", "https://app.example.test"),
        ("SUPPORT_URL", "https://app.example.test/support"),
        ("UNSUBSCRIBE_KEY", "test-key-that-signs-unsubscribe-links"),
        ("ASSETS_BUCKET", "assets"),
        ("FFMPEG_BIN", &media::tool("ffmpeg")),
        ("FFPROBE_BIN", &media::tool("ffprobe")),
        // Nothing that a test has not thought of leaves the machine.
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
