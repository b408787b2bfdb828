use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use jobs::{Job, Message, Spec, Timestamp};
use serde::Serialize;
use services::mail::Mailer;
use services::outbox::{self, Departure};
use services::{Database, Error, Outgoing, Queues, Storage};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::time::{Instant, timeout};

use crate::event::TRACE_PARENT;
use crate::ledger;
use crate::outcome::Failure;

/// The handlers have used their time: what follows must leave some for the endings.
const RELEASE_WITHIN: Duration = Duration::from_millis(200);

/// What a function instance has: made once, at its start.
pub(crate) struct World {
    pub database: Database,
    pub queues: Queues,
    pub mailer: Option<Mailer>,
    pub storage: Option<Storage>,
}

/// What a handler may use. Lives for one invocation.
#[derive(Clone)]
pub struct Context {
    pub(crate) world: Rc<World>,
    pub(crate) deadline: Instant,
    /// Committed by handlers, to be sent at the end.
    pub(crate) departures: Rc<RefCell<Vec<Departure>>>,
}

impl Context {
    /// PostgreSQL.
    pub fn database(&self) -> &Database {
        &self.world.database
    }

    /// The queues; only the relay sends past the outbox.
    pub fn queues(&self) -> &Queues {
        &self.world.queues
    }

    /// The mailer of a job that declares that it uses mail.
    pub fn mailer(&self) -> Result<&Mailer, Error> {
        self.world
            .mailer
            .as_ref()
            .ok_or_else(|| Error::permanent("the job does not declare that it uses mail"))
    }

    /// The storage of a job that declares that it uses it, for what it declares.
    pub fn storage(&self) -> Result<&Storage, Error> {
        self.world
            .storage
            .as_ref()
            .ok_or_else(|| Error::permanent("the job does not declare that it uses storage"))
    }

    /// How long the function still has.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// One message of a batch and its run.
pub struct Delivery<M> {
    /// The message.
    pub message: M,
    /// Its run.
    pub run: Run,
}

/// One attempt of one run.
pub struct Run {
    pub(crate) spec: &'static Spec,
    pub(crate) context: Context,
    pub(crate) run_key: String,
    pub(crate) token: Rc<str>,
    pub(crate) trace_id: String,
    pub(crate) attempt: u32,
    pub(crate) as_of: Option<Timestamp>,
    pub(crate) exclusive: Cell<bool>,
}

impl Run {
    /// By what the run is known.
    pub fn key(&self) -> &str {
        &self.run_key
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the run is dead when this attempt fails.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.spec.attempts
    }

    /// "Now" for the rules of this run: its slot, else the clock.
    pub fn as_of(&self) -> Timestamp {
        self.as_of.unwrap_or_else(chrono::Utc::now)
    }

    /// What the handler may use.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// True when it is time to page out: no page should begin with less time left.
    pub fn must_stop(&self) -> bool {
        self.context.time_left() < self.spec.minimum.max(Duration::from_secs(2))
    }

    /// Begins a transaction that can enqueue.
    pub async fn begin(&self) -> Result<Tx<'_>, Error> {
        Ok(Tx {
            tx: self.context.database().begin().await?,
            run: self,
            departures: Vec::new(),
        })
    }

    /// Begins a transaction by statements of the caller's.
    pub(crate) async fn begin_with(&self, statements: &'static str) -> Result<Tx<'_>, Error> {
        Ok(Tx {
            tx: self.context.database().pool().begin_with(statements).await?,
            run: self,
            departures: Vec::new(),
        })
    }

    /// Goes on only while nobody else holds `key`; given back when the handler ends. SQS knows no concurrency below two.
    pub async fn exclusive(&self, key: &str) -> Result<(), Failure> {
        let holder = self.holder();
        match ledger::acquire(self.context.database().pool(), key, &holder, self.spec.lease()).await? {
            Ok(()) => {
                self.exclusive.set(true);
                Ok(())
            }
            Err(wait) => Err(Failure::Deferred {
                until: chrono::Utc::now() + wait,
                reason: format!("another run holds `{key}`"),
            }),
        }
    }

    /// Shows how far the run is; an error when the lease is lost, and then the attempt must end.
    pub async fn progress(&self, progress: impl Serialize) -> Result<(), Failure> {
        let progress = serde_json::to_value(progress).unwrap_or_default();
        match ledger::progress(
            self.context.database().pool(),
            self.spec.name(),
            &self.run_key,
            &self.token,
            progress,
        )
        .await?
        {
            true => Ok(()),
            false => Err(Failure::Retry {
                error: "the lease was lost to another attempt".into(),
                after: None,
            }),
        }
    }

    fn holder(&self) -> String {
        format!("{}/{}/{}", self.spec.name(), self.run_key, self.token)
    }

    pub(crate) async fn release(&self) {
        if !self.exclusive.take() {
            return;
        }
        let holder = self.holder();
        let releasing = timeout(RELEASE_WITHIN, ledger::release(self.context.database().pool(), &holder));
        if let Err(error) = releasing
            .await
            .unwrap_or_else(|_| Err(Error::transient("no connection was free")))
        {
            // It ends by itself; the next run waits a little longer.
            tracing::warn!(error = error.chain(), "an exclusive lease could not be given back");
        }
    }
}

/// A transaction whose messages leave after its commit, and only then.
pub struct Tx<'r> {
    tx: Transaction<'static, Postgres>,
    run: &'r Run,
    departures: Vec<Departure>,
}

impl Tx<'_> {
    /// Enqueues a message for `job` with this transaction. The job must be declared in `sends_to`: the function has no permission
    /// for other queues.
    pub async fn enqueue<M: Message>(&mut self, job: &Job<M>, messages: &[M]) -> Result<(), Error> {
        let target = job.spec().name();
        if !self.run.spec.may_send_to(target) {
            return Err(Error::permanent(format!(
                "`{}` does not declare that it sends to `{target}`",
                self.run.spec.name()
            )));
        }
        let outgoing = |message: &M| Outgoing {
            queue: target.to_owned(),
            body: serde_json::to_string(message).unwrap_or_default(),
            attributes: BTreeMap::from([(
                TRACE_PARENT.to_owned(),
                crate::telemetry::trace_parent(&self.run.trace_id),
            )]),
            delay: Duration::ZERO,
        };
        let outgoing: Vec<_> = messages.iter().map(outgoing).collect();
        self.departures.extend(outbox::write(&mut *self.tx, &outgoing).await?);
        Ok(())
    }

    /// Whether something leaves with the commit.
    pub(crate) fn has_messages(&self) -> bool {
        !self.departures.is_empty()
    }

    /// Takes everything back, messages included.
    pub async fn rollback(self) -> Result<(), Error> {
        Ok(self.tx.rollback().await?)
    }

    /// Commits; the runtime sends what was enqueued when the handler has ended.
    pub async fn commit(self) -> Result<(), Error> {
        self.tx.commit().await?;
        self.run.context.departures.borrow_mut().extend(self.departures);
        Ok(())
    }
}

impl Deref for Tx<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
