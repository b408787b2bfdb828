//! Delivers one notification: visible in the app, and at most one e-mail (spec: comms, `notification-delivery`).
//!
//! # Invariants
//!
//! * A decision is written once, on the locked row, in the transaction that also enqueues its mail: `email_state` leaves `PENDING`
//!   exactly once.
//! * The mail leaves after that commit, through the ledger. Whatever happens to it, the notification is in the app.
//! * Trouble of the mail provider never leads to the DLQ: after the last attempt the ledger row is `email-dispatch`'s.

mod letter;
mod rules;
mod store;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt;
use jobs::{DeliverNotification, Timestamp, catalog};
use runtime::{Context, Delivery, Failure, Outcome, Run, done, retry, skipped};
use serde_json::json;
use services::Error;
use services::mail::{Dispatched, Mailer, Options, Status};

use rules::Decision;
use store::{Notification, Record};

fn main() -> ExitCode {
    runtime::serve_batch(catalog::NOTIFICATION_DELIVERY, deliver)
}

async fn deliver(deliveries: &[Delivery<DeliverNotification>], context: &Context) -> Result<Vec<Outcome>, Failure> {
    let mut decided = HashMap::new();
    let mut sent = HashMap::new();
    // Nearly always one: a batch of "now".
    for (as_of, ids) in by_slot(deliveries) {
        let at = as_of.unwrap_or_else(chrono::Utc::now);
        // One page is decided while the mails of the last one are on their way.
        let pages = futures::stream::iter(context.mailer()?.pages(&ids))
            .map(|page| deliver_page(context, page, at))
            .buffered(2);
        for page in pages.collect::<Vec<_>>().await {
            let (records, dispatched) = page?;
            sent.extend(dispatched.into_iter().map(|mail| (mail.id.clone(), mail)));
            decided.extend(records);
        }
    }
    let outcome =
        |delivery: &Delivery<DeliverNotification>| match decided.get(delivery.message.notification_id.as_str()) {
            None => skipped("not_found"),
            Some(record) => outcome(
                record,
                record.mail_id.as_ref().and_then(|id| sent.get(id)),
                &delivery.run,
            ),
        };
    Ok(deliveries.iter().map(outcome).collect())
}

/// Decides on every notification of a page, and sends the mails of those decisions.
async fn deliver_page(
    context: &Context,
    ids: &[String],
    at: Timestamp,
) -> Result<(HashMap<String, Record>, Vec<Dispatched>), Error> {
    let mailer = context.mailer()?;
    let turn = mailer.turn().await;
    let records = decide(context, mailer, ids, at).await?;
    let mails: Vec<_> = records.values().filter_map(|record| record.mail_id.clone()).collect();
    let options = Options {
        at,
        retry_after: Some(retry_after),
        turn: Some(&turn),
    };
    let dispatched = mailer.dispatch(context.database(), &mails, options).await?;
    Ok((records, dispatched))
}

/// The wait after the n-th call for a mail: 2, 4, 8 s, so that the mail is due when the record comes back.
fn retry_after(attempts: i32) -> Duration {
    Duration::from_secs(2u64.saturating_pow(attempts.clamp(1, 10).unsigned_abs()))
}

fn by_slot(deliveries: &[Delivery<DeliverNotification>]) -> HashMap<Option<Timestamp>, Vec<String>> {
    let mut slots: HashMap<_, Vec<String>> = HashMap::new();
    for delivery in deliveries {
        slots
            .entry(delivery.message.as_of)
            .or_default()
            .push(delivery.message.notification_id.to_string());
    }
    slots
}

/// Decides on every notification that is still undecided, and writes that down with the mails, in one transaction.
async fn decide(
    context: &Context,
    mailer: &Mailer,
    ids: &[String],
    at: Timestamp,
) -> Result<HashMap<String, Record>, Error> {
    let mut tx = context.database().begin().await?;
    let notifications = store::load(&mut tx, ids, at).await?;
    let mut decisions: Vec<(Notification, Decision)> = Vec::with_capacity(notifications.len());
    for notification in notifications {
        let decision = rules::decide(&notification);
        decisions.push((notification, decision));
    }
    store::claim_cooldowns(&mut tx, &mut decisions, at).await?;
    let records = store::record(&mut tx, mailer, decisions, at).await?;
    tx.commit().await?;
    Ok(records)
}

fn outcome(record: &Record, mail: Option<&Dispatched>, run: &Run) -> Outcome {
    let Some(mail) = mail else {
        return done(json!({"email": record.state, "reason": record.reason}));
    };
    match mail.status {
        Status::Pending if mail.faulted && !run.is_last_attempt() => retry(format!(
            "the mail provider did not take the mail: {}",
            mail.reason.as_deref().unwrap_or("no reason")
        )),
        Status::Pending => {
            done(json!({"email": "PENDING", "reason": mail.reason, "nextAttemptAt": mail.next_attempt_at}))
        }
        status => done(json!({"email": status.as_str(), "reason": mail.reason})),
    }
}
