//! The acceptance checks of `notification-delivery` (spec: comms), on the built function.

use serde_json::{Value, json};
use testkit::{Answer, World};

const JOB: &str = "notification-delivery";

/// A user with the default preferences.
async fn a_user(world: &World, name: &str) -> String {
    sqlx::query_scalar("INSERT INTO users (email, name, email_verified) VALUES ($1, $2, now()) RETURNING id")
        .bind(format!("{}@example.test", name.to_lowercase()))
        .bind(name)
        .fetch_one(&world.db)
        .await
        .unwrap()
}

async fn prefers(world: &World, user: &str, column: &str, value: &str) {
    let sql = format!(
        "INSERT INTO email_preferences (user_id, {column}) VALUES ($1, '{value}') ON CONFLICT (user_id) DO UPDATE SET {column} = EXCLUDED.{column}"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(user)
        .execute(&world.db)
        .await
        .unwrap();
}

async fn a_notification(world: &World, user: &str, kind: &str, priority: &str, metadata: Value) -> String {
    sqlx::query_scalar(
        "INSERT INTO notifications (user_id, type, priority, title, message, action_url, metadata)
         VALUES ($1, $2, $3, 'A title', 'A text', '/somewhere', $4) RETURNING id",
    )
    .bind(user)
    .bind(kind)
    .bind(priority)
    .bind(metadata)
    .fetch_one(&world.db)
    .await
    .unwrap()
}

async fn state(world: &World, id: &str) -> (String, Option<String>) {
    sqlx::query_as("SELECT email_state, email_state_reason FROM notifications WHERE id = $1")
        .bind(id)
        .fetch_one(&world.db)
        .await
        .unwrap()
}

fn message(id: &str) -> Value {
    json!({"notificationId": id})
}

#[tokio::test]
async fn a_medium_notification_is_mailed_once_however_often_its_message_comes() {
    let world = World::new("a_medium_notification_is_mailed_once_however_often_its_message_comes").await;
    let ann = a_user(&world, "Ann").await;
    let id = a_notification(&world, &ann, "LICENSE", "MEDIUM", json!({})).await;
    for _ in 0..3 {
        world.deliver(JOB, [message(&id)]).await;
    }
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(state(&world, &id).await, ("SENT".into(), None));
    assert!(world.dead_letters(JOB).is_empty());
    let _ = Answer::ServiceUnavailable;
}
