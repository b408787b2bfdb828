//! The ledger's sweeper: deferred, scheduled and retried mail, stuck rows, lost notifications (spec: comms, `email-dispatch`).
//!
//! Two of them may run at once: rows are claimed one by one, keys are unique, and every step is a conditional update.

mod schedule;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jobs::{DeliverNotification, DispatchEmail, Id, Timestamp, catalog};
use runtime::{Failure, Outcome, Run, done};
use serde::Serialize;
use services::mail::{self, Options, Status, Sweep};

/// A tick does not reach into the next one.
const WORK_FOR: Duration = Duration::from_secs(50);
/// Mails of one gate query. At SES's lowest rate, one a second, a page that begins in time also ends in time.
const PAGE: i64 = 100;
/// Notifications that are enqueued again in one run.
const LOST: i64 = 500;
/// Digests that follow their mails in one run.
const DIGESTS: i64 = 5000;

/// What a run did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(flatten)]
    sweep: Sweep,
    expired: i64,
    scheduled: usize,
    considered: usize,
    sent: usize,
    held: usize,
    refused: usize,
    deferred: usize,
    failed: usize,
    uncertain: usize,
    requeued: usize,
    /// Digests whose mail has ended.
    digests: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::EMAIL_DISPATCH, dispatch)
}

async fn dispatch(message: DispatchEmail, run: &mut Run) -> Outcome {
    let database = run.context().database();
    let at = run.as_of();
    let mut report = Report {
        sweep: mail::sweep(database.pool()).await?,
        expired: mail::expire(database.pool(), at, 5000).await?,
        ..Report::default()
    };
    if message.email_ids.is_empty() {
        report.scheduled = schedule::enqueue_due(run, at).await?;
        send_due(&message, run, at, &mut report).await?;
        report.requeued = requeue_lost(run, at).await?;
        report.digests = digests::settle(database.pool(), None, DIGESTS).await?;
    } else {
        let ids: Vec<_> = message.email_ids.iter().map(Id::to_string).collect();
        send(run, &ids, at, &mut report).await?;
    }
    done(report)
}

/// Page by page, until nothing is due, the limit is reached or the tick is over.
async fn send_due(message: &DispatchEmail, run: &Run, at: Timestamp, report: &mut Report) -> Result<(), Failure> {
    let limit = message.limit.unwrap_or(1000) as usize;
    let begun = Instant::now();
    while report.considered < limit && begun.elapsed() < WORK_FOR && !run.must_stop() {
        let page = PAGE.min((limit - report.considered) as i64);
        let ids = mail::take_due(run.context().database().pool(), at, page).await?;
        if ids.is_empty() || !send(run, &ids, at, report).await? {
            break;
        }
    }
    Ok(())
}

/// False when nothing moved: what is due is somebody else's.
async fn send(run: &Run, ids: &[String], at: Timestamp, report: &mut Report) -> Result<bool, Failure> {
    let context = run.context();
    let mails = context
        .mailer()?
        .dispatch(
            context.database(),
            ids,
            Options {
                at,
                retry_after: None,
                turn: None,
            },
        )
        .await?;
    report.considered += mails.len();
    for mail in &mails {
        let count = match mail.status {
            Status::Sent => &mut report.sent,
            Status::Held => &mut report.held,
            Status::Pending => &mut report.deferred,
            Status::Failed => &mut report.failed,
            Status::Uncertain => &mut report.uncertain,
            _ => &mut report.refused,
        };
        *count += 1;
    }
    Ok(!mails.is_empty())
}

/// Notifications whose message never came are enqueued again; the delivery's own guard makes a second message harmless.
async fn requeue_lost(run: &Run, at: Timestamp) -> Result<usize, Failure> {
    let mut tx = run.begin().await?;
    let ids = sqlx::query_scalar!(
        "SELECT id FROM notifications WHERE pending_since < $1::timestamptz - interval '5 minutes' ORDER BY pending_since LIMIT $2",
        at,
        LOST,
    )
    .fetch_all(&mut *tx)
    .await?;
    let messages: Vec<_> = ids
        .into_iter()
        .filter_map(|id| {
            Some(DeliverNotification {
                notification_id: id.parse().ok()?,
                as_of: None,
            })
        })
        .collect();
    tx.enqueue(&catalog::NOTIFICATION_DELIVERY, &messages).await?;
    tx.commit().await?;
    Ok(messages.len())
}
