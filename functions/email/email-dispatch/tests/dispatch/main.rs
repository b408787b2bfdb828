//! `email-dispatch` and the mail ledger (spec: comms), the built function on a real database.

mod acceptance;
mod faults;
mod gate;
mod machine;
mod messages;
mod pace;
mod scheduled;
mod shared_parts;

use serde_json::{Value, json};
use services::mail::feedback::{self, Feedback, rank};
use testkit::World;
use testkit::people::Entry;
use testkit::queue::Drained;

const JOB: &str = "email-dispatch";
const DELIVERY: &str = "notification-delivery";

/// One tick.
async fn tick(world: &World) -> Drained {
    world.deliver(JOB, [json!({})]).await
}

/// One tick of a slot.
async fn tick_at(world: &World, slot: &str) -> Drained {
    world.deliver(JOB, [json!({ "asOf": slot })]).await
}

/// What `email-events` writes when SES reports that it has the mail.
async fn accepted_by_ses(world: &World, mail: &str, ses_message_id: &str) {
    let feedback = Feedback {
        rank: rank::SENT,
        accepted: Some((ses_message_id.to_owned(), chrono::Utc::now())),
        ..Feedback::default()
    };
    let mut connection = world.db.acquire().await.expect("a connection");
    feedback::record(&mut connection, &[(mail.to_owned(), feedback)])
        .await
        .expect("the row");
}

/// The report of the last run.
async fn report(world: &World) -> Value {
    sqlx::query_scalar("SELECT report FROM job_runs WHERE job = $1 ORDER BY finished_at DESC LIMIT 1")
        .bind(JOB)
        .fetch_one(&world.db)
        .await
        .expect("the row")
}

async fn breaker(world: &World) -> (String, i32) {
    sqlx::query_as("SELECT state, failure_count FROM circuit_breakers WHERE name = 'ses'")
        .fetch_one(&world.db)
        .await
        .expect("the row")
}

fn is(entry: &Entry, status: &str, reason: impl Into<Option<&'static str>>, attempts: i32) {
    assert_eq!(
        (entry.verdict(), entry.attempts),
        ((status, reason.into()), attempts),
        "{entry:?}"
    );
}
