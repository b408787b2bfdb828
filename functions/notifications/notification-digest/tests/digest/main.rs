//! `notification-digest` and the machinery of all digests (spec: comms, C10, C11), the built function on a real database.

mod acceptance;
mod clock;
mod content;
mod edges;
mod faults;

use serde_json::{Value, json};
use testkit::World;
use testkit::queue::Drained;

const JOB: &str = "notification-digest";
const DISPATCH: &str = "email-dispatch";
/// Monday, nine o'clock in UTC.
const MONDAY: &str = "2025-10-20T09:00:00Z";

/// One tick of a slot.
async fn tick(world: &World, slot: &str) -> Drained {
    world.deliver(JOB, [json!({ "frequency": "ALL", "asOf": slot })]).await
}

/// A user with these preferences.
async fn subscriber(world: &World, name: &str, settings: &str) -> String {
    let user = world.user(name).await;
    world.prefers(&user, settings).await;
    user
}

/// An unread notification of this type, priority and time. Answers the id.
async fn notify(world: &World, user: &str, kind: &str, priority: &str, created_at: &str) -> String {
    sqlx::query_scalar(
        "INSERT INTO notifications (user_id, type, priority, title, message, action_url, email_state, created_at)
         VALUES ($1, $2, $3, $2 || ' of ' || $4, 'A text', '/somewhere', 'DIGEST', $4::timestamptz) RETURNING id",
    )
    .bind(user)
    .bind(kind)
    .bind(priority)
    .bind(created_at)
    .fetch_one(&world.db)
    .await
    .expect("a new notification")
}

/// Slot, status and number of items of a user's digests, in order.
async fn deliveries(world: &World, user: &str) -> Vec<(String, String, i32)> {
    sqlx::query_as("SELECT period_key, status, item_count FROM digest_deliveries WHERE user_id = $1 ORDER BY window_end, period_key")
        .bind(user)
        .fetch_all(&world.db)
        .await
        .expect("the rows")
}

fn delivery(period_key: &str, status: &str, items: i32) -> (String, String, i32) {
    (period_key.to_owned(), status.to_owned(), items)
}

/// The reports of all runs, the last one first.
async fn reports(world: &World) -> Vec<Value> {
    sqlx::query_scalar("SELECT coalesce(report, progress) FROM job_runs WHERE job = $1 ORDER BY finished_at DESC")
        .bind(JOB)
        .fetch_all(&world.db)
        .await
        .expect("the rows")
}

async fn report(world: &World) -> Value {
    reports(world).await.swap_remove(0)
}
