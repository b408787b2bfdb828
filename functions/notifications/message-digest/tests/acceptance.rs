//! `message-digest` (spec: comms), the built function on a real database. What all digests share is tested with `notification-digest`.

use serde_json::json;
use testkit::{World, faults};

const JOB: &str = "message-digest";
const DISPATCH: &str = "email-dispatch";
const MONDAY: &str = "2025-10-20T09:00:00Z";

async fn tick(world: &World, slot: &str) {
    world.deliver(JOB, [json!({ "frequency": "ALL", "asOf": slot })]).await;
}

async fn reader(world: &World, name: &str) -> String {
    let user = world.user(name).await;
    world.prefers(&user, "message_email_mode = 'DIGEST'").await;
    user
}

async fn thread(world: &World, id: &str, subject: &str) {
    world
        .execute(
            "INSERT INTO message_threads (id, subject) VALUES ($1, nullif($2, ''))",
            &[id, subject],
        )
        .await;
}

/// Answers the id.
async fn write(world: &World, thread: &str, sender: &str, recipient: &str, body: &str, at: &str) -> String {
    sqlx::query_scalar(
        "INSERT INTO messages (thread_id, sender_id, recipient_id, body, created_at) VALUES ($1, $2, $3, $4, $5::timestamptz) RETURNING id",
    )
    .bind(thread)
    .bind(sender)
    .bind(recipient)
    .bind(body)
    .bind(at)
    .fetch_one(&world.db)
    .await
    .expect("a new message")
}

async fn deliveries(world: &World, user: &str) -> Vec<(String, String, i32)> {
    sqlx::query_as(
        "SELECT period_key, status, item_count FROM digest_deliveries WHERE user_id = $1 ORDER BY window_end",
    )
    .bind(user)
    .fetch_all(&world.db)
    .await
    .expect("the rows")
}

fn delivery(period_key: &str, status: &str, items: i32) -> (String, String, i32) {
    (period_key.to_owned(), status.to_owned(), items)
}

#[tokio::test]
async fn unread_messages_come_by_conversation_and_once() {
    let world = World::new("unread_messages_come_by_conversation").await;
    let (ann, bob, cid) = (
        reader(&world, "Ann").await,
        world.user("Bob").await,
        world.user("Cid").await,
    );
    for (id, subject) in [("a", "Autumn"), ("b", "Budget"), ("c", "Chatter")] {
        thread(&world, id, subject).await;
    }
    world
        .execute(
            "INSERT INTO message_thread_mutes (user_id, thread_id) VALUES ($1, 'c')",
            &[&ann],
        )
        .await;
    let long = format!("First\n\nline {} <b>", "é".repeat(300));
    for (thread, sender, body, minute) in [
        ("a", &bob, "One", 0),
        ("a", &cid, "Two", 1),
        ("a", &bob, "Three <b>", 2),
        ("b", &cid, "Four", 3),
        ("b", &cid, &*long, 4),
        ("c", &bob, "Five", 5),
    ] {
        write(
            &world,
            thread,
            sender,
            &ann,
            body,
            &format!("2025-10-20T08:{minute:02}:00Z"),
        )
        .await;
    }
    // The same slot twice, and what a notification says of the messages is not mailed besides.
    world.prefers(&ann, "digest_frequency = 'DAILY'").await;
    world
        .execute(
            "INSERT INTO notifications (user_id, type, title, message, email_state, created_at)
             VALUES ($1, 'MESSAGE', 'A title', 'A text', 'DIGEST', '2025-10-20T08:00:00Z')",
            &[&ann],
        )
        .await;
    tick(&world, MONDAY).await;
    tick(&world, MONDAY).await;
    world
        .deliver("notification-digest", [json!({ "frequency": "ALL", "asOf": MONDAY })])
        .await;

    let mails = world.mailbox.sent_to("ann@example.test");
    assert_eq!((mails.len(), &*mails[0].subject), (1, "You have 5 unread messages"));
    let text = &mails[0].text;
    assert!(
        text.contains("3 unread messages from Bob, Cid") && text.contains("2 unread messages from Cid"),
        "{text}"
    );
    assert!(
        text.find("BUDGET") < text.find("AUTUMN") && !text.contains("CHATTER"),
        "the latest first: {text}"
    );
    assert!(
        text.contains("Three <b>") && !text.contains("Two"),
        "only the latest message: {text}"
    );
    assert!(text.contains(&format!("First line {}…", "é".repeat(189))), "{text}");
    assert!(mails[0].html.contains("Three &#60;b&#62;"));
    assert_eq!(
        (&*mails[0].tags["category"], &*mails[0].tags["stream"]),
        ("messages", "DIGEST")
    );
    assert_eq!(
        deliveries(&world, &ann).await,
        [delivery("2025-10-20", "SENT", 5), delivery("2025-10-20", "EMPTY", 0)]
    );

    tick(&world, "2025-10-21T09:00:00Z").await;
    assert_eq!(
        deliveries(&world, &ann).await[2..],
        [delivery("2025-10-21", "EMPTY", 0)]
    );
    let unchanged = "SELECT count(*) FROM digest_states WHERE kind = 'MESSAGE' AND last_sent_at = '2025-10-20T09:00:00Z' AND last_window_end = '2025-10-21T09:00:00Z'";
    assert_eq!(world.count(unchanged).await, 1);
}

#[tokio::test]
async fn what_was_read_or_deleted_stays_out_and_one_message_is_singular() {
    let world = World::new("what_was_read_or_deleted_stays_out").await;
    let (ann, bob) = (reader(&world, "Ann").await, world.user("Bob").await);
    thread(&world, "a", "").await;
    thread(&world, "gone", "Gone").await;
    let at = "2025-10-20T08:00:00Z";
    let kept = write(&world, "a", &bob, &ann, "Hello", at).await;
    let read = write(&world, "a", &bob, &ann, "Read", at).await;
    let deleted = write(&world, "a", &bob, &ann, "Deleted", at).await;
    write(&world, "gone", &bob, &ann, "In a deleted conversation", at).await;
    world
        .execute(
            "UPDATE messages SET read_at = '2025-10-20T08:59:00Z' WHERE id = $1",
            &[&read],
        )
        .await;
    world
        .execute("UPDATE messages SET deleted_at = now() WHERE id = $1", &[&deleted])
        .await;
    world
        .execute("UPDATE message_threads SET deleted_at = now() WHERE id = 'gone'", &[])
        .await;
    world
        .execute("UPDATE users SET deleted_at = now() WHERE id = $1", &[&bob])
        .await;
    world.prefers(&ann, "show_message_preview = false").await;
    tick(&world, MONDAY).await;

    let mail = &world.mailbox.sent_to("ann@example.test")[0];
    assert_eq!(mail.subject, "You have 1 unread message");
    assert!(
        mail.text.contains("CONVERSATION") && mail.text.contains("1 unread message from Deleted user"),
        "{}",
        mail.text
    );
    assert!(!mail.text.contains("Hello"), "no preview: {}", mail.text);
    let item: String = sqlx::query_scalar("SELECT item_id FROM digest_items")
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(item, kept);
}

#[tokio::test]
async fn ten_conversations_and_five_names_are_shown() {
    let world = World::new("ten_conversations_and_five_names").await;
    let ann = reader(&world, "Ann").await;
    let many = "WITH people AS (INSERT INTO users (id, name) SELECT 'p' || i, 'P' || i FROM generate_series(1, 9) i RETURNING id),
                     threads AS (INSERT INTO message_threads (id, subject) SELECT 't' || i, 'Talk ' || i FROM generate_series(1, 12) i RETURNING id)
                INSERT INTO messages (thread_id, sender_id, recipient_id, body, created_at)
                SELECT t.id, p.id, $1, 'Hi', '2025-10-20T08:00:00Z'::timestamptz + right(p.id, 1)::int * interval '1 second' FROM people p, threads t";
    world
        .execute(
            "ALTER TABLE messages DROP CONSTRAINT messages_sender_id_fkey, DROP CONSTRAINT messages_thread_id_fkey",
            &[],
        )
        .await;
    world.execute(many, &[&ann]).await;
    tick(&world, MONDAY).await;
    let mail = &world.mailbox.sent_to("ann@example.test")[0];
    assert_eq!(mail.subject, "You have 108 unread messages");
    assert_eq!(
        mail.text.matches("9 unread messages from P1, P2, P3, P4, P5\n").count(),
        10,
        "{}",
        mail.text
    );
    assert!(mail.text.contains("and 2 more conversations"));
}

#[tokio::test]
async fn who_wants_no_digest_of_messages_gets_none() {
    let world = World::new("who_wants_no_digest_of_messages").await;
    let bob = world.user("Bob").await;
    thread(&world, "a", "Autumn").await;
    for (name, settings) in [
        ("Off", "message_email_mode = 'OFF'"),
        (
            "Immediate",
            "message_email_mode = 'IMMEDIATE', digest_frequency = 'DAILY'",
        ),
        ("Category", "message_email_mode = 'DIGEST', messages = false"),
        (
            "Weekly",
            "message_email_mode = 'DIGEST', message_digest_frequency = 'WEEKLY', digest_weekday = 3",
        ),
    ] {
        let user = world.user(name).await;
        world.prefers(&user, settings).await;
        write(&world, "a", &bob, &user, "Hello", "2025-10-20T08:00:00Z").await;
    }
    tick(&world, MONDAY).await;
    assert_eq!(world.count("SELECT count(*) FROM digest_deliveries").await, 0);
    tick(&world, "2025-10-22T09:00:00Z").await;
    assert_eq!(
        (
            world.mailbox.accepted(),
            world.mailbox.sent_to("weekly@example.test").len()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_conversation_is_told_once_whatever_fails() {
    let report = faults::everywhere("a_conversation_is_told_once", async |world| {
        let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
        world
            .prefers(
                &ann,
                "message_email_mode = 'DIGEST', digest_hour = extract(hour FROM now())",
            )
            .await;
        thread(world, "a", "Autumn").await;
        write(world, "a", &bob, &ann, "Hello", &chrono::Utc::now().to_rfc3339()).await;

        world.deliver(JOB, [json!({ "frequency": "ALL" })]).await;
        let moving = "SELECT (SELECT count(*) FROM email_messages WHERE status IN ('PENDING', 'SENDING', 'UNCERTAIN'))
                           + (SELECT count(*) FROM digest_deliveries WHERE status = 'ENQUEUED')";
        for minutes in [3, 61, 61] {
            if world.count(moving).await > 0 {
                world.advance_minutes(minutes).await;
                world.deliver(DISPATCH, [json!({})]).await;
            }
        }

        assert_eq!(
            world
                .count("SELECT count(*) FROM digest_deliveries WHERE status = 'SENT' AND item_count = 1")
                .await,
            1
        );
        assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 1);
        let sent = world
            .count("SELECT count(*) FROM email_messages WHERE status = 'SENT'")
            .await;
        assert!((sent..=1).contains(&(world.mailbox.accepted() as i64)));
        assert_eq!(
            sent + world
                .count("SELECT count(*) FROM email_messages WHERE status_reason = 'unconfirmed'")
                .await,
            1
        );
        assert_eq!((world.dead_letters(JOB), world.queued(JOB)), (vec![], vec![]));
    })
    .await;
    assert!(report.cases > 0);
}
