use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::message::{Message, decode};

/// The declaration of a job whose messages are `M`.
///
/// Made by the const builder below and kept in [`crate::catalog`]; all numbers that follow from others are
/// methods of [`Spec`].
pub struct Job<M> {
    spec: Spec,
    message: PhantomData<fn() -> M>,
}

/// What is declared of a job, whatever its message.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    path: &'static str,
    /// What the job does, in one sentence.
    pub about: &'static str,
    /// How soon a message must be handled.
    pub priority: Priority,
    /// How many attempts a run has. Crashes and deferrals are not counted here.
    pub attempts: u32,
    /// How long to wait between two attempts.
    pub backoff: Backoff,
    /// The most invocations at a time (the event source's maximum concurrency; SQS allows no less than 2).
    pub concurrency: u32,
    /// The most records of one invocation.
    pub batch: u32,
    /// How long SQS gathers records for a batch.
    pub window: Duration,
    /// The Lambda timeout.
    pub timeout: Duration,
    /// No record is begun with less time left than this: it is handed back unharmed.
    pub minimum: Duration,
    /// Memory of the function, in MiB.
    pub memory_mb: u32,
    /// Space below `/tmp`, in MiB.
    pub ephemeral_storage_mb: u32,
    /// Connections to the database of one instance, at least 2: one is the ledger's.
    pub connections: u32,
    /// What the function may touch; permissions, environment and layers follow.
    pub uses: &'static [Use],
    /// The jobs to whose queues this one sends, by name; `"*"` is every queue.
    pub sends_to: &'static [&'static str],
    /// The schedules that put a message on the job's queue.
    pub schedules: &'static [Schedule],
    /// Topics whose messages come to the job's queue as they are.
    pub topics: &'static [Topic],
    /// What the job must bear.
    pub load: Load,
    /// How long the ledger remembers its runs.
    pub history: History,
    /// The queue is there, and the function that empties it is still to be built: what is sent waits.
    pub awaits_function: bool,
    /// The JSON Schema of the message.
    pub schema: fn() -> Value,
    /// Whether a body is a message of this job; the error is the reason.
    pub accepts: fn(Value) -> Result<(), String>,
}

/// How soon a message of the job must be handled; sets the queue-age alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// A person waits for it.
    UserFacing,
    /// Nobody waits, but stale results are seen.
    NearRealTime,
    /// Belongs to a slot.
    Scheduled,
    /// House-keeping.
    Background,
}

impl Priority {
    /// The age of the oldest message at which the alarm rings.
    pub const fn oldest_message(self) -> Duration {
        match self {
            Self::UserFacing => secs(60),
            Self::NearRealTime => minutes(5),
            Self::Scheduled => minutes(15),
            Self::Background => minutes(60),
        }
    }
}

/// The wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Always the same wait.
    Fixed(Duration),
    /// `base × 2^(attempt − 1)`, at most `max`.
    Exponential {
        /// The wait after the first attempt.
        base: Duration,
        /// The longest wait.
        max: Duration,
    },
}

impl Backoff {
    /// SQS hides a message for at most twelve hours.
    pub const LONGEST: Duration = minutes(12 * 60);

    /// Doubling from `base`, up to 15 minutes.
    pub const fn exponential(base: Duration) -> Self {
        Self::Exponential { base, max: minutes(15) }
    }

    /// The wait after `attempt` (from 1). `jitter` in 0..=1 spreads it by ±20 % so that what failed together
    /// does not come back together.
    pub fn wait(self, attempt: u32, jitter: f64) -> Duration {
        let plain = match self {
            Self::Fixed(wait) => return wait,
            Self::Exponential { base, max } => base
                .saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1)))
                .min(max),
        };
        plain.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(Self::LONGEST)
    }
}

/// What a function may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// PostgreSQL.
    Database,
    /// SES, through the mail ledger.
    Mail,
    /// S3: originals to read, and what is made of them to write (spec: assets 0.6).
    Storage,
    /// S3: the objects of assets, to measure and to delete. Only the scan and what cleans up may (spec: assets 0.6).
    StorageDeletion,
    /// ffmpeg and ffprobe, in a layer.
    Media,
    /// The key that signs unsubscribe links; with [`Use::Mail`] it comes anyway.
    UnsubscribeKey,
}

/// Where others publish what a job may want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// What SES reports of every mail.
    MailFeedback,
}

/// A point in time that comes again, in EventBridge's six fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Minutes, hours, day of month, month, day of week, year.
    pub fields: &'static str,
    /// IANA time zone.
    pub time_zone: &'static str,
}

impl Cron {
    /// By the clock of UTC.
    pub const fn utc(fields: &'static str) -> Self {
        Self {
            fields,
            time_zone: "UTC",
        }
    }
}

/// A schedule puts an ordinary message on the job's own queue, with `asOf` set to the slot.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Unique within the job; part of the run key, so that a slot fired twice runs once.
    pub name: &'static str,
    /// When.
    pub cron: Cron,
    /// The message as JSON text; `asOf` and `schedule` are added.
    pub message: &'static str,
}

impl Schedule {
    /// The message that the schedule sends for the slot `as_of`.
    ///
    /// `schedule` and `asOf` together are the run key; a person who sends a slot again leaves `schedule` out.
    pub fn body(&self, as_of: &str) -> Value {
        let mut body: Value = serde_json::from_str(self.message).unwrap_or_default();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("asOf".into(), as_of.into());
            fields.insert("schedule".into(), self.name.into());
        }
        body
    }
}

/// What a job must bear at its busiest; [`crate::check`] proves that its concurrency suffices.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Messages a second, sustained.
    pub messages_per_second: u32,
    /// How long a full batch takes.
    pub batch_takes: Duration,
}

/// How long the ledger remembers a run, from its end on.
///
/// A message that comes again later than that runs again, and only the job's own conditional updates absorb it: SQS keeps
/// messages for four days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Done, skipped or continued: a day to 30 days.
    pub completed: Duration,
    /// Dead, or never finished: 7 to 30 days. Messages that no queue takes wait in the outbox for as long.
    pub failed: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl History {
    const DEFAULT: Self = Self {
        completed: days(7),
        failed: days(30),
    };
}

impl<M: Message> Job<M> {
    /// A job by its place in `functions/`: `"<domain>/<job>"`.
    pub const fn new(path: &'static str) -> Self {
        let spec = Spec {
            path,
            about: "",
            priority: Priority::Background,
            attempts: 3,
            backoff: Backoff::exponential(secs(30)),
            concurrency: 2,
            batch: 1,
            window: Duration::ZERO,
            timeout: minutes(5),
            minimum: secs(5),
            memory_mb: 256,
            ephemeral_storage_mb: 512,
            connections: 2,
            uses: &[Use::Database],
            sends_to: &[],
            schedules: &[],
            topics: &[],
            load: Load {
                messages_per_second: 1,
                batch_takes: secs(1),
            },
            history: History::DEFAULT,
            awaits_function: false,
            schema: schema_of::<M>,
            accepts: accepts::<M>,
        };
        Self {
            spec,
            message: PhantomData,
        }
    }

    /// What the job does, in one sentence.
    pub const fn about(mut self, about: &'static str) -> Self {
        self.spec.about = about;
        self
    }

    /// Sets [`Spec::priority`].
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Sets [`Spec::attempts`] and [`Spec::backoff`].
    pub const fn attempts(mut self, attempts: u32, backoff: Backoff) -> Self {
        self.spec.attempts = attempts;
        self.spec.backoff = backoff;
        self
    }

    /// Sets [`Spec::concurrency`].
    pub const fn concurrency(mut self, concurrency: u32) -> Self {
        self.spec.concurrency = concurrency;
        self
    }

    /// Sets [`Spec::batch`].
    pub const fn batch(mut self, batch: u32) -> Self {
        self.spec.batch = batch;
        self
    }

    /// Sets [`Spec::window`].
    pub const fn window(mut self, window: Duration) -> Self {
        self.spec.window = window;
        self
    }

    /// Sets [`Spec::timeout`].
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = timeout;
        self
    }

    /// Sets [`Spec::minimum`].
    pub const fn minimum(mut self, minimum: Duration) -> Self {
        self.spec.minimum = minimum;
        self
    }

    /// Sets [`Spec::memory_mb`].
    pub const fn memory(mut self, mb: u32) -> Self {
        self.spec.memory_mb = mb;
        self
    }

    /// Sets [`Spec::ephemeral_storage_mb`].
    pub const fn ephemeral_storage(mut self, mb: u32) -> Self {
        self.spec.ephemeral_storage_mb = mb;
        self
    }

    /// Sets [`Spec::connections`].
    pub const fn connections(mut self, connections: u32) -> Self {
        self.spec.connections = connections;
        self
    }

    /// Sets [`Spec::uses`].
    pub const fn uses(mut self, uses: &'static [Use]) -> Self {
        self.spec.uses = uses;
        self
    }

    /// Sets [`Spec::sends_to`].
    pub const fn sends_to(mut self, jobs: &'static [&'static str]) -> Self {
        self.spec.sends_to = jobs;
        self
    }

    /// Sets [`Spec::schedules`].
    pub const fn schedules(mut self, schedules: &'static [Schedule]) -> Self {
        self.spec.schedules = schedules;
        self
    }

    /// Sets [`Spec::topics`].
    pub const fn topics(mut self, topics: &'static [Topic]) -> Self {
        self.spec.topics = topics;
        self
    }

    /// Sets [`Spec::load`].
    pub const fn load(mut self, messages_per_second: u32, batch_takes: Duration) -> Self {
        self.spec.load = Load {
            messages_per_second,
            batch_takes,
        };
        self
    }

    /// Sets [`Spec::history`].
    pub const fn history(mut self, completed: Duration, failed: Duration) -> Self {
        self.spec.history = History { completed, failed };
        self
    }

    /// Sets [`Spec::awaits_function`]: others may send already, and nothing but the queue is deployed.
    pub const fn awaits_function(mut self) -> Self {
        self.spec.awaits_function = true;
        self
    }

    /// The declaration without the type of its message.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }
}

impl Spec {
    /// The folder of the job in `functions/`.
    pub fn domain(&self) -> &'static str {
        self.path.split_once('/').map_or("", |(domain, _)| domain)
    }

    /// The name of the job, of its crate, its binary and (after a prefix) its queue and function.
    pub fn name(&self) -> &'static str {
        self.path.split_once('/').map_or(self.path, |(_, name)| name)
    }

    /// How long a received message stays hidden: six times the timeout, as AWS advises, and the batch window.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>
    pub fn visibility_timeout(&self) -> Duration {
        self.timeout * 6 + self.window
    }

    /// A tripwire, far above [`Spec::attempts`]: throttling and redelivery raise SQS's receive count too.
    pub fn max_receive_count(&self) -> u32 {
        (3 * self.attempts).max(10)
    }

    /// How long a claim holds: longer than the function can live.
    pub fn lease(&self) -> Duration {
        self.timeout + secs(10)
    }

    /// How many attempts of one run may vanish without a word (crash, out of memory) before it is dead.
    pub fn crashes(&self) -> u32 {
        self.attempts.max(3)
    }

    /// Messages live four days in the queue.
    pub fn retention(&self) -> Duration {
        minutes(4 * 24 * 60)
    }

    /// Dead letters live fourteen days, the most that SQS offers.
    pub fn dead_letter_retention(&self) -> Duration {
        minutes(14 * 24 * 60)
    }

    /// Whether the job may send to the queue of `job`.
    pub fn may_send_to(&self, job: &str) -> bool {
        job == self.name() || self.sends_to.iter().any(|name| *name == "*" || *name == job)
    }
}

fn schema_of<M: Message>() -> Value {
    schemars::schema_for!(M).to_value()
}

fn accepts<M: Message>(body: Value) -> Result<(), String> {
    decode::<M>(body).map(drop).map_err(|error| error.to_string())
}

/// Seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Days.
pub const fn days(n: u64) -> Duration {
    minutes(24 * 60 * n)
}

/// Milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Memory in MiB.
pub const fn mb(n: u32) -> u32 {
    n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exponential_waits_double_up_to_the_cap() {
        let backoff = Backoff::Exponential {
            base: secs(2),
            max: secs(10),
        };
        let waits: Vec<_> = (1..=5).map(|attempt| backoff.wait(attempt, 0.5).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 10, 10]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth_and_below_what_sqs_can_hide(attempt in 1u32..100, jitter in 0.0..=1.0f64, base in 1u64..100_000) {
            let backoff = Backoff::Exponential { base: secs(base), max: minutes(100_000) };
            let wait = backoff.wait(attempt, jitter);
            let middle = backoff.wait(attempt, 0.5);
            prop_assert!(wait <= Backoff::LONGEST);
            if middle.mul_f64(1.2) < Backoff::LONGEST {
                prop_assert!(wait >= middle.mul_f64(0.799) && wait <= middle.mul_f64(1.201));
            }
        }
    }
}
