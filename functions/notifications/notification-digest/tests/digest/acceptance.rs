//! The six acceptance checks.

use std::time::Duration;

use serde_json::json;
use testkit::World;

use crate::{DISPATCH, JOB, MONDAY, deliveries, delivery, notify, subscriber, tick};

/// As many subscribers to a daily digest, with three notifications each.
async fn crowd(world: &World, users: usize, hour: &str, at: &str) {
    let sql = format!(
        "WITH crowd AS (INSERT INTO users (id, email, name, email_verified)
                        SELECT 'u' || i, 'u' || i || '@example.test', 'User ' || i, now() FROM generate_series(1, {users}) i RETURNING id),
              preferences AS (INSERT INTO email_preferences (user_id, digest_frequency, digest_hour) SELECT id, 'DAILY', {hour} FROM crowd)
         INSERT INTO notifications (user_id, type, title, message, email_state, created_at)
         SELECT id, 'LICENSE', 'A title', 'A text', 'DIGEST', {at} - k * interval '1 hour' FROM crowd, generate_series(1, 3) k"
    );
    world.execute(&sql, &[]).await;
}

/// How fast that is, and in how many statements, says `cargo jobs bench digest`.
#[tokio::test]
async fn twelve_hundred_users_get_one_digest_each() {
    let world = World::new("twelve_hundred_users_get_one").await;
    world.mailbox.latency(Duration::from_millis(50));
    world.mailbox.account(|account| account.max_send_rate = 500.0);
    crowd(&world, 1245, "9", "timestamptz '2025-10-20T09:00:00Z'").await;

    tick(&world, MONDAY).await;
    // On a machine that is too busy for the database to answer in time, what was claimed is sent by the other function.
    world.deliver(DISPATCH, [json!({ "asOf": MONDAY })]).await;

    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (1245, 0));
    let settled = "SELECT count(*) FROM digest_deliveries d JOIN digest_states s USING (user_id, kind)
                   WHERE d.status = 'SENT' AND d.item_count = 3 AND s.last_period_key = '2025-10-20' AND s.last_sent_at = d.window_end";
    assert_eq!(world.count(settled).await, 1245);
    tick(&world, MONDAY).await;
    assert_eq!(world.mailbox.accepted(), 1245);
}

#[tokio::test]
async fn a_killed_run_mails_nobody_twice_and_forgets_nobody() {
    let world = World::new("a_killed_run_mails_nobody_twice").await;
    world.mailbox.latency(Duration::from_millis(20));
    world.mailbox.account(|account| account.max_send_rate = 250.0);
    crowd(&world, 450, "extract(hour FROM now())", "now()").await;
    let function = world.function(JOB).await;

    let killing = async {
        world.mailbox.reaches(230).await;
        function.kill().await;
    };
    futures::future::join(world.deliver(JOB, [json!({ "frequency": "DAILY" })]), killing).await;
    // Nothing more arrives for mail whose function is gone.
    for minutes in [3, 61, 61] {
        world.advance_minutes(minutes).await;
        world.deliver(DISPATCH, [json!({})]).await;
    }

    let unconfirmed = world
        .count("SELECT count(*) FROM email_messages WHERE status = 'FAILED' AND status_reason = 'unconfirmed'")
        .await;
    let sent = world
        .count("SELECT count(*) FROM email_messages WHERE status = 'SENT'")
        .await;
    assert_eq!((sent + unconfirmed, world.mailbox.doubled()), (450, 0));
    // The chunk that was being answered, and those that had begun meanwhile: each a quarter of a second of the quota, 50 mails.
    assert!((1..=150).contains(&unconfirmed), "{unconfirmed}");
    assert!(world.mailbox.accepted() as i64 >= sent);
    assert_eq!(
        world
            .count("SELECT count(*) FROM digest_deliveries WHERE status = 'SENT'")
            .await,
        450
    );
    assert_eq!(
        world.count("SELECT count(DISTINCT item_id) FROM digest_items").await,
        1350
    );
}

#[tokio::test]
async fn nine_o_clock_is_the_users_own() {
    let world = World::new("nine_o_clock_is_the_users_own").await;
    for (name, zone) in [
        ("Ann", "America/New_York"),
        ("Bob", "Asia/Kolkata"),
        ("Cid", "UTC"),
        ("Dan", "Asia/Kathmandu"),
    ] {
        let user = subscriber(
            &world,
            name,
            &format!("digest_frequency = 'DAILY', time_zone = '{zone}'"),
        )
        .await;
        notify(&world, &user, "LICENSE", "MEDIUM", "2025-10-20T02:00:00Z").await;
    }
    let mut left = Vec::new();
    for tick_number in 0..96 {
        let slot = format!("2025-10-20T{:02}:{:02}:00Z", tick_number / 4, tick_number % 4 * 15);
        tick(&world, &slot).await;
        for mail in world.mailbox.mails().iter().skip(left.len()) {
            left.push(format!("{} {}", &slot[11..16], mail.to[0]));
        }
    }
    assert_eq!(
        left,
        [
            "03:15 dan@example.test",
            "03:30 bob@example.test",
            "09:00 cid@example.test",
            "13:00 ann@example.test"
        ]
    );
}

#[tokio::test]
async fn a_digest_carries_what_is_unread_unimportant_and_no_message() {
    let world = World::new("a_digest_carries_what_is_unread").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    let at = "2025-10-20T08:00:00Z";
    let low = notify(&world, &ann, "PAYOUT", "LOW", at).await;
    let high = notify(&world, &ann, "LICENSE", "HIGH", at).await;
    let message = notify(&world, &ann, "MESSAGE", "MEDIUM", at).await;
    let read = notify(&world, &ann, "LICENSE", "MEDIUM", at).await;
    world
        .execute("UPDATE notifications SET email_state = 'SENT' WHERE id = $1", &[&high])
        .await;
    world
        .execute(
            "UPDATE notifications SET read = true, read_at = now() WHERE id = $1",
            &[&read],
        )
        .await;

    tick(&world, MONDAY).await;

    let mails = world.mailbox.sent_to("ann@example.test");
    assert_eq!((mails.len(), &*mails[0].subject), (1, "You have 1 unread notification"));
    assert_eq!(world.email_state(&low).await.0, "DIGESTED");
    for (other, state) in [(high, "SENT"), (message, "DIGEST"), (read, "DIGEST")] {
        assert_eq!(world.email_state(&other).await.0, state);
    }
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "SENT", 1)]);
}

#[tokio::test]
async fn a_week_has_one_digest() {
    let world = World::new("a_week_has_one_digest").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'WEEKLY'").await;
    notify(&world, &ann, "LICENSE", "MEDIUM", "2025-10-15T08:00:00Z").await;
    notify(&world, &ann, "LICENSE", "MEDIUM", "2025-10-20T09:30:00Z").await;
    for slot in [
        "2025-10-20T08:45:00Z",
        MONDAY,
        "2025-10-21T09:00:00Z",
        "2025-10-22T08:45:00Z",
    ] {
        tick(&world, slot).await;
    }
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-W43", "SENT", 1)]);
    tick(&world, "2025-10-27T09:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await[1..], [delivery("2025-W44", "SENT", 1)]);
    assert_eq!(world.mailbox.accepted(), 2);
}

#[tokio::test]
async fn thirty_of_a_kind_are_ten_lines_and_a_number() {
    let world = World::new("thirty_of_a_kind_are_ten_lines").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    for n in 0..30 {
        notify(&world, &ann, "LICENSE", "MEDIUM", &format!("2025-10-20T08:{n:02}:00Z")).await;
    }
    tick(&world, MONDAY).await;
    tick(&world, "2025-10-21T09:00:00Z").await;

    let mails = world.mailbox.sent_to("ann@example.test");
    assert_eq!(
        (mails.len(), &*mails[0].subject),
        (1, "You have 30 unread notifications")
    );
    for part in [&mails[0].text, &mails[0].html] {
        assert_eq!(part.matches("LICENSE of 2025-10-20T08:").count(), 10);
        assert!(part.contains("and 20 more"));
        let newest = (20..30)
            .rev()
            .map(|n| part.find(&format!("08:{n}:00Z")).expect("a line"));
        assert!(newest.is_sorted(), "newest first");
    }
    assert_eq!(
        deliveries(&world, &ann).await,
        [delivery("2025-10-20", "SENT", 30), delivery("2025-10-21", "EMPTY", 0)]
    );
}
