//! A function whose messages say how they end: for tests of the runtime, and for its benchmark. Not in the catalog, never deployed.

use std::process::ExitCode;

use jobs::{Backoff, Job, Message, Timestamp, catalog, mb, secs};
use runtime::{Context, Delivery, Failure, Outcome, Run, continued, dead, deferred, done, retry, skipped};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FIXTURE: Job<End> = Job::new("testing/fixture")
    .about("Ends as its message says")
    .attempts(3, Backoff::exponential(secs(2)))
    .batch(10)
    .timeout(secs(30))
    .minimum(secs(2))
    .memory(mb(256))
    .sends_to(&["outbox-relay"]);

/// How to end.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "end")]
enum End {
    /// At once.
    Done,
    /// With this reason.
    Skip { reason: String },
    /// With a message for the next link, while there are links left.
    Continue { links: u32 },
    /// Later by so many seconds, so many times; then done.
    Defer { seconds: i64, times: i64 },
    /// With this error, in every attempt up to this one; then done.
    Retry { error: String, attempts: u32 },
    /// With this reason.
    Dead { reason: String },
    /// With a panic of this text.
    Panic { text: String },
    /// With a panic before it is a message.
    PanicInDecoding,
    /// With the process, so many times; then done.
    Crash { times: i32 },
    /// Not before the function's deadline.
    Hang,
    /// When the database gives this advisory lock: a signal of the test.
    Wait { lock: i64 },
    /// After enqueueing a message in a transaction, which then commits, or not.
    Enqueue { commit: bool },
    /// With the process, right after the commit of an enqueued message; the next time done.
    EnqueueAndCrash,
    /// To a job that is not declared.
    EnqueueUndeclared,
    /// While holding the exclusive lease, until the database gives the lock.
    Exclusive { key: String, lock: i64 },
    /// With the process, while holding the exclusive lease, once; then done.
    ExclusiveCrash { key: String },
    /// After noting its progress when the database gives the lock.
    Progress { lock: i64 },
    /// For its slot.
    #[serde(rename_all = "camelCase")]
    Slot { as_of: Timestamp },
    /// With this report.
    Report { report: Value },
}

impl Message for End {
    fn as_of(&self) -> Option<Timestamp> {
        match self {
            Self::Slot { as_of } => Some(*as_of),
            _ => None,
        }
    }

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::PanicInDecoding => panic!("as asked"),
            _ => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    match std::env::var("FIXTURE_TAKES").as_deref() {
        Ok("batches") => runtime::serve_batch(FIXTURE, end_all),
        _ => runtime::serve(FIXTURE, async |message, run: &mut Run| end(message, run).await),
    }
}

async fn end_all(deliveries: &[Delivery<End>], _: &Context) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match end(delivery.message.clone(), &delivery.run).await {
            Err(Failure::Dead { reason }) => return Err(Failure::Dead { reason }),
            outcome => outcomes.push(outcome),
        }
    }
    Ok(outcomes)
}

async fn end(message: End, run: &Run) -> Outcome {
    match message {
        End::Done => done(json!({})),
        End::Skip { reason } => skipped(reason),
        End::Continue { links: 0 } => done(json!({"links": "none left"})),
        End::Continue { links } => continued(End::Continue { links: links - 1 }),
        End::Defer { seconds, times } => {
            let before = deferrals(run).await?;
            if before == times {
                return done(json!({"attempt": run.attempt()}));
            }
            run.progress(before + 1).await?;
            deferred(chrono::Utc::now() + chrono::Duration::seconds(seconds), "not yet")
        }
        End::Retry { error, attempts } if run.attempt() <= attempts => retry(error),
        End::Retry { .. } => done(json!({"attempt": run.attempt()})),
        End::Dead { reason } => dead(reason),
        End::Panic { text } => panic!("{text}"),
        End::PanicInDecoding => unreachable!("it never becomes a message"),
        End::Crash { times } if crashes(run).await? < times => std::process::abort(),
        End::Crash { times } => done(json!({"crashed": times})),
        End::Hang => std::future::pending().await,
        End::Wait { lock } => {
            wait(run, lock).await?;
            done(json!({}))
        }
        End::Enqueue { commit } => {
            let mut tx = run.begin().await?;
            tx.enqueue(&catalog::OUTBOX_RELAY, &[jobs::RelayOutbox::default()])
                .await?;
            if commit {
                tx.commit().await?;
            }
            done(json!({}))
        }
        End::EnqueueAndCrash if crashes(run).await? > 0 => done(json!({})),
        End::EnqueueAndCrash => {
            let mut tx = run.begin().await?;
            tx.enqueue(&catalog::OUTBOX_RELAY, &[jobs::RelayOutbox::default()])
                .await?;
            tx.commit().await?;
            std::process::abort()
        }
        End::EnqueueUndeclared => {
            let mut tx = run.begin().await?;
            tx.enqueue(&catalog::EMAIL_DISPATCH, &[jobs::DispatchEmail::default()])
                .await?;
            done(json!({}))
        }
        End::Exclusive { key, lock } => {
            run.exclusive(&key).await?;
            wait(run, lock).await?;
            done(json!({}))
        }
        End::ExclusiveCrash { key } => {
            run.exclusive(&key).await?;
            if crashes(run).await? == 0 {
                std::process::abort();
            }
            done(json!({}))
        }
        End::Progress { lock } => {
            wait(run, lock).await?;
            run.progress(json!({"done": 1, "total": 2})).await?;
            done(json!({}))
        }
        End::Slot { .. } => done(json!({"asOf": run.as_of()})),
        End::Report { report } => done(report),
    }
}

/// Says that it waits, then does until the database gives the lock.
async fn wait(run: &Run, lock: i64) -> Result<(), sqlx::Error> {
    let pool = run.context().database().pool();
    sqlx::query("SELECT pg_notify('waiting', $1)")
        .bind(run.key())
        .execute(pool)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)")
        .bind(lock)
        .execute(pool)
        .await?;
    Ok(())
}

/// How often this run has crashed before.
async fn crashes(run: &Run) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT crashes FROM job_runs WHERE job = 'fixture' AND run_key = $1")
        .bind(run.key())
        .fetch_one(run.context().database().pool())
        .await
}

/// How often this run was deferred before.
async fn deferrals(run: &Run) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(progress::bigint, 0) FROM job_runs WHERE job = 'fixture' AND run_key = $1")
        .bind(run.key())
        .fetch_one(run.context().database().pool())
        .await
}
