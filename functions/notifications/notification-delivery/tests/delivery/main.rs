//! `notification-delivery` (spec: comms), the built function on a real database.

mod acceptance;
mod decisions;
mod edges;
mod faults;
mod letters;
mod provider;

use serde_json::{Value, json};
use testkit::World;
use testkit::people::Notification;
use testkit::queue::Drained;

const JOB: &str = "notification-delivery";
const DISPATCH: &str = "email-dispatch";

fn message(id: &str) -> Value {
    json!({ "notificationId": id })
}

/// Delivers them, at best in one batch.
async fn deliver<'a>(world: &World, ids: impl IntoIterator<Item = &'a String>) -> Drained {
    world.deliver(JOB, ids.into_iter().map(|id| message(id))).await
}

/// Delivers one notification and tells what became of it.
async fn delivered(world: &World, user: &str, notification: Notification) -> (String, Option<String>) {
    let id = world.notification(user, notification).await;
    deliver(world, [&id]).await;
    world.email_state(&id).await
}

fn state(state: &str, reason: impl Into<Option<&'static str>>) -> (String, Option<String>) {
    (state.to_owned(), reason.into().map(str::to_owned))
}
