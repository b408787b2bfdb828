//! A function whose messages say how they end: for tests of the runtime, and for its benchmark. Not in the catalog, never deployed.

use std::process::ExitCode;

use jobs::{Backoff, Job, Message, Timestamp, catalog, mb, secs};
use runtime::{Outcome, Run, continued, dead, deferred, done, retry, skipped};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const FIXTURE: Job<End> = Job::new("testing/fixture")
    .about("Ends as its message says")
    .attempts(3, Backoff::exponential(secs(2)))
    .batch(10)
    .timeout(secs(30))
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
    /// Until then.
    Defer { until: Timestamp },
    /// With this error, in every attempt up to this one; then done.
    Retry { error: String, attempts: u32 },
    /// With this reason.
    Dead { reason: String },
    /// With a panic.
    Panic,
    /// With the process.
    Crash,
    /// Not before the function's deadline.
    Hang,
    /// After enqueueing a message in a transaction, which then commits, or not.
    Enqueue { commit: bool },
    /// To a job that is not declared.
    EnqueueUndeclared,
    /// While holding the exclusive lease.
    Exclusive { key: String },
    /// After noting its progress.
    Progress,
    /// For its slot.
    #[serde(rename_all = "camelCase")]
    Slot { as_of: Timestamp },
}

impl Message for End {
    fn as_of(&self) -> Option<Timestamp> {
        match self {
            Self::Slot { as_of } => Some(*as_of),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    runtime::serve(FIXTURE, end)
}

async fn end(message: End, run: &mut Run) -> Outcome {
    match message {
        End::Done => done(json!({})),
        End::Skip { reason } => skipped(reason),
        End::Continue { links: 0 } => done(json!({"links": "none left"})),
        End::Continue { links } => continued(End::Continue { links: links - 1 }),
        End::Defer { until } if until > chrono::Utc::now() => deferred(until, "not yet"),
        End::Defer { .. } => done(json!({"attempt": run.attempt()})),
        End::Retry { error, attempts } if run.attempt() <= attempts => retry(error),
        End::Retry { .. } => done(json!({"attempt": run.attempt()})),
        End::Dead { reason } => dead(reason),
        End::Panic => panic!("as asked"),
        End::Crash => std::process::abort(),
        End::Hang => std::future::pending().await,
        End::Enqueue { commit } => {
            let mut tx = run.begin().await?;
            tx.enqueue(&catalog::OUTBOX_RELAY, &[jobs::RelayOutbox::default()])
                .await?;
            if commit {
                tx.commit().await?;
            }
            done(json!({}))
        }
        End::EnqueueUndeclared => {
            let mut tx = run.begin().await?;
            tx.enqueue(&catalog::EMAIL_DISPATCH, &[jobs::DispatchEmail::default()])
                .await?;
            done(json!({}))
        }
        End::Exclusive { key } => {
            run.exclusive(&key).await?;
            done(json!({}))
        }
        End::Progress => {
            run.progress(json!({"done": 1, "total": 2})).await?;
            done(json!({}))
        }
        End::Slot { .. } => done(json!({"asOf": run.as_of()})),
    }
}
