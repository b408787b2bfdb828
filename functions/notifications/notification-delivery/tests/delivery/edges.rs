//! Odd people, odd data, odd moments.

use serde_json::{Value, json};
use testkit::World;
use testkit::people::{LedgerRow, Notification};

use crate::{JOB, deliver, delivered, message, state};

/// Text that does not compress.
fn noise(length: usize) -> String {
    let mut x = 1u64;
    let mut letter = || {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((x >> 33) % 26) as u8)
    };
    (0..length).map(|_| letter()).collect()
}

#[tokio::test]
async fn a_notification_that_is_gone_is_no_failure() {
    let world = World::new("a_notification_that_is_gone").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    world.execute("DELETE FROM users WHERE id = $1", &[&ann]).await;

    let drained = world.deliver(JOB, [message(&id), message("never-was")]).await;

    assert_eq!((drained.returned, drained.failures.len()), (0, 0));
    let runs = "SELECT count(*) FROM job_runs WHERE status = 'skipped' AND reason = 'not_found'";
    assert_eq!(world.count(runs).await, 2);
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn two_messages_of_one_notification_in_a_batch_make_one_mail() {
    let world = World::new("two_messages_of_one_notification").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    let replay = json!({ "notificationId": id, "asOf": chrono::Utc::now() - chrono::Duration::minutes(1) });

    let drained = world.deliver(JOB, [message(&id), message(&id), replay]).await;

    assert_eq!((drained.invocations, drained.returned), (1, 0));
    assert_eq!(world.mailbox.accepted(), 1);
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await,
        3
    );
}

#[tokio::test]
async fn two_processes_with_the_same_notifications_mail_each_once() {
    let world = World::new("two_processes_with_the_same_notifications").await;
    world.scale(JOB, 4);
    let ann = world.user("Ann").await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let kind = if n % 2 == 0 { "LICENSE" } else { "MESSAGE" };
        let metadata = json!({ "thread_id": "t1", "sender_name": "Grace" });
        let notification = Notification {
            kind,
            metadata,
            ..Notification::default()
        };
        ids.push(world.notification(&ann, notification).await);
    }
    let backwards = ids.iter().rev();
    deliver(&world, ids.iter().chain(backwards).chain(&ids).chain(&ids)).await;

    // Ten licenses, and one message for the thread.
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (11, 0));
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE email_state_reason = 'cooldown'")
            .await,
        9
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_user_whom_no_mail_can_reach_still_has_the_notification_in_the_app() {
    let world = World::new("a_user_whom_no_mail_can_reach").await;
    for (n, (address, becomes)) in [
        (None, state("SKIPPED", "no_address")),
        (Some("ann.example.test"), state("FAILED", "invalid_address")),
        (Some("ann@bücher"), state("FAILED", "invalid_address")),
        (Some("änn@example.test"), state("FAILED", "invalid_address")),
        (Some(""), state("FAILED", "invalid_address")),
        (Some(" Ann@Example.TEST "), state("SENT", None)),
        (Some("ann@bücher.example"), state("SENT", None)),
    ]
    .into_iter()
    .enumerate()
    {
        let user = world.user(&format!("u{n}")).await;
        sqlx::query("UPDATE users SET email = $2 WHERE id = $1")
            .bind(&user)
            .bind(address)
            .execute(&world.db)
            .await
            .unwrap();
        assert_eq!(
            delivered(&world, &user, Notification::default()).await,
            becomes,
            "{address:?}"
        );
    }
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(world.mailbox.sent_to("ann@xn--bcher-kva.example").len(), 1);
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE in_app_at IS NULL")
            .await,
        0
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn the_app_shows_what_the_user_wants_there_once_and_for_all() {
    let world = World::new("the_app_shows").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    let off = "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled) VALUES ($1, 'LICENSE', 'IN_APP', false)";
    world.execute(off, &[&bob]).await;
    let anns = world.notification(&ann, Notification::default()).await;
    let bobs = world.notification(&bob, Notification::default()).await;
    let slot = "2025-10-20T09:00:00Z";
    world
        .deliver(
            JOB,
            [&anns, &bobs].map(|id| json!({ "notificationId": id, "asOf": slot })),
        )
        .await;
    deliver(&world, [&anns, &bobs]).await;

    let shown: Vec<(String, Option<chrono::DateTime<chrono::Utc>>)> =
        sqlx::query_as("SELECT user_id, in_app_at FROM notifications")
            .fetch_all(&world.db)
            .await
            .unwrap();
    for (user, at) in shown {
        assert_eq!(at, (user == ann).then(|| slot.parse().unwrap()));
    }
    // Off in the app is not off in the mail.
    assert_eq!(world.mailbox.accepted(), 2);
}

#[tokio::test]
async fn a_mail_for_the_bundle_waits_for_it() {
    let world = World::new("a_mail_for_the_bundle_waits").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    world.prefers(&ann, "email_frequency = 'WEEKLY'").await;
    world.prefers(&bob, "email_frequency = 'NEVER'").await;
    let project = Notification {
        kind: "PROJECT",
        metadata: json!({
            "type": "match", "project_name": "Botanical Prints", "brand_name": "Atelier Nord", "project_description": "Plants."
        }),
        ..Notification::default()
    };
    let id = world.notification(&ann, project.clone()).await;
    for _ in 0..2 {
        deliver(&world, [&id]).await;
        assert_eq!(world.email_state(&id).await, state("QUEUED", None));
        assert_eq!(world.entry_of(&id).await.verdict(), ("HELD", None));
    }
    assert_eq!(
        delivered(&world, &bob, project).await,
        state("SKIPPED", "frequency_never")
    );
    // What cannot be bundled leaves.
    assert_eq!(
        delivered(&world, &ann, Notification::default()).await,
        state("SENT", None)
    );
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn quiet_hours_keep_a_mail_back_unless_it_is_urgent() {
    let world = World::new("quiet_hours_keep_a_mail_back").await;
    let ann = world.user("Ann").await;
    let quiet = "time_zone = 'Europe/Berlin', quiet_hours_start = '22:00', quiet_hours_end = '07:00'";
    world.prefers(&ann, quiet).await;
    let at = |id: &str, slot: &str| json!({ "notificationId": id, "asOf": slot });
    let of = |priority, metadata| Notification {
        kind: "SYSTEM",
        priority,
        metadata,
        ..Notification::default()
    };
    let high = world.notification(&ann, of("HIGH", json!({}))).await;
    let urgent = world.notification(&ann, of("URGENT", json!({}))).await;
    let security = world
        .notification(&ann, of("LOW", json!({ "category": "SECURITY" })))
        .await;
    let night = "2025-07-01T20:30:00Z";

    let drained = world
        .deliver(JOB, [&high, &urgent, &security].map(|id| at(id, night)))
        .await;

    assert_eq!(drained.returned, 0);
    assert_eq!(world.email_state(&urgent).await, state("SENT", None));
    assert_eq!(world.email_state(&security).await, state("SENT", None));
    assert_eq!(world.email_state(&high).await, state("QUEUED", None));
    let entry = world.entry_of(&high).await;
    assert_eq!((entry.verdict(), entry.attempts), (("PENDING", Some("quiet_hours")), 0));
    let at_seven = "SELECT count(*) FROM email_messages WHERE next_attempt_at = '2025-07-02T05:00:00Z'";
    assert_eq!(world.count(at_seven).await, 1);
    // In the morning a second message finds it due.
    world.deliver(JOB, [at(&high, "2025-07-02T05:00:00Z")]).await;
    assert_eq!(world.email_state(&high).await, state("SENT", None));
    assert_eq!(world.mailbox.accepted(), 3);
}

#[tokio::test]
async fn a_bundle_that_grows_after_its_mail_left_is_not_mailed_again() {
    let world = World::new("a_bundle_that_grows").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    deliver(&world, [&id]).await;
    world
        .execute(
            "UPDATE notifications SET title = '2 licenses', bundle_count = 2 WHERE id = $1",
            &[&id],
        )
        .await;
    deliver(&world, [&id]).await;
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn one_fact_is_mailed_once_whoever_tells_it() {
    let world = World::new("one_fact_is_mailed_once").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    let told = |key: &str| Notification {
        kind: "PAYOUT",
        metadata: json!({ "email_dedup_key": key }),
        ..Notification::default()
    };
    // Another job has enqueued it.
    let row = &world.ledger([LedgerRow::payout("ann@example.test").of(&ann)]).await[0];
    world
        .execute(
            "UPDATE email_messages SET dedup_key = 'payout:p1:COMPLETED' WHERE id = $1",
            &[row],
        )
        .await;
    assert_eq!(
        delivered(&world, &ann, told("payout:p1:COMPLETED")).await,
        state("SKIPPED", "duplicate")
    );
    // Two notifications of one batch tell it.
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(world.notification(&bob, told("payout:p2:COMPLETED")).await);
    }
    deliver(&world, &ids).await;

    let mut states = [world.email_state(&ids[0]).await, world.email_state(&ids[1]).await];
    states.sort();
    assert_eq!(states, [state("SENT", None), state("SKIPPED", "duplicate")]);
    assert_eq!(world.mailbox.sent_to("bob@example.test").len(), 1);
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 0);
}

#[tokio::test]
async fn garbage_in_the_metadata_never_stops_a_delivery() {
    let world = World::new("garbage_in_the_metadata").await;
    let mut deep = json!("down");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let wrong = json!({
        "days_until_expiry": {"n": 90}, "status": 5, "statement_id": [], "type": {}, "category": ["SECURITY"], "alerts": "many",
        "thread_id": {"id": 1}, "sender_name": 7, "email_dedup_key": 5, "user_name": [], "action_label": {"a": 1}, "amount_cents": "lots"
    });
    let huge = json!({
        "brief_excerpt": noise(300_000), "type": "invitation", "project_name": "P", "brand_name": "B", "project_url": "/p"
    });
    let garbage: Vec<Value> = vec![
        json!([]),
        json!("text"),
        json!(5),
        json!(null),
        json!(true),
        deep,
        wrong,
        huge,
        json!({ "email_dedup_key": noise(10_000) }),
        json!({ "email_dedup_key": "" }),
        json!({ "thread_id": noise(10_000), "sender_name": "Grace" }),
        json!({ "days_until_expiry": 1e300, "expiry_days": -1 }),
        json!({ "'; DROP TABLE users; --": "x", "action_label": "</a><script>" }),
    ];
    let kinds = ["LICENSE", "PAYOUT", "ROYALTY", "PROJECT", "MESSAGE", "SYSTEM"];
    let mut ids = Vec::new();
    for (n, metadata) in garbage.iter().enumerate() {
        for kind in kinds {
            let user = world.user(&format!("{kind}{n}")).await;
            let notification = Notification {
                kind,
                metadata: metadata.clone(),
                ..Notification::default()
            };
            ids.push(world.notification(&user, notification).await);
        }
    }
    let drained = deliver(&world, &ids).await;

    assert_eq!((drained.returned, drained.failures.len()), (0, 0));
    assert_eq!(world.dead_letters(JOB), []);
    for (n, id) in ids.iter().enumerate() {
        let metadata = garbage[n / kinds.len()].to_string();
        let shown: String = metadata.chars().take(80).collect();
        assert_eq!(
            world.email_state(id).await,
            state("SENT", None),
            "{} {shown}",
            kinds[n % kinds.len()]
        );
    }
    assert_eq!(world.mailbox.accepted(), ids.len());
}

#[tokio::test]
async fn hostile_text_is_only_text() {
    let world = World::new("hostile_text_is_only_text").await;
    let ann = world.user("Ann").await;
    world
        .execute(
            "UPDATE users SET name = $2 WHERE id = $1",
            &[&ann, "Robert'); DROP TABLE users; --"],
        )
        .await;
    let hostile = "'; DELETE FROM notifications; -- \"$1\" \\x00 {{ 7*7 }}";
    let notification = Notification {
        title: format!("{hostile}\r\nBcc: eve@example.test"),
        message: "<script>alert(1)</script> \u{202e}\u{1F600}".into(),
        action_url: Some("javascript:alert(1)"),
        ..Notification::default()
    };
    assert_eq!(delivered(&world, &ann, notification).await, state("SENT", None));

    let mails = world.mailbox.mails();
    assert_eq!((mails.len(), &*mails[0].to), (1, &["ann@example.test".to_owned()][..]));
    assert_eq!(mails[0].subject, format!("{hostile} Bcc: eve@example.test"));
    assert!(
        !mails[0].html.contains("<script>") && !mails[0].html.contains("javascript:"),
        "{}",
        mails[0].html
    );
    assert!(!mails[0].text.contains("javascript:"), "{}", mails[0].text);
    assert_eq!(world.count("SELECT count(*) FROM users").await, 1);
}

#[tokio::test]
async fn a_title_of_nothing_can_be_no_subject() {
    let world = World::new("a_title_of_nothing").await;
    let ann = world.user("Ann").await;
    let blank = Notification {
        title: "\u{1} \t\u{7}".into(),
        ..Notification::default()
    };
    assert_eq!(delivered(&world, &ann, blank).await, state("FAILED", "empty_subject"));
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE in_app_at IS NULL")
            .await,
        0
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn the_fifty_first_mail_of_an_hour_waits() {
    let world = World::new("the_fifty_first_mail_of_an_hour").await;
    let ann = world.user("Ann").await;
    let rows: Vec<_> = (0..49)
        .map(|_| LedgerRow::payout("ann@example.test").of(&ann))
        .collect();
    world.ledger(rows).await;
    let sent = "UPDATE email_messages SET status = 'SENT', sent_at = now() - interval '59 minutes' WHERE user_id = $1";
    world.execute(sent, &[&ann]).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(world.notification(&ann, Notification::default()).await);
    }
    deliver(&world, &ids).await;

    assert_eq!(world.mailbox.accepted(), 1);
    let waiting = "SELECT count(*) FROM email_messages WHERE status = 'PENDING' AND status_reason = 'frequency_cap' AND attempts = 0
                   AND next_attempt_at BETWEEN now() + interval '59 minutes' AND now() + interval '61 minutes'";
    assert_eq!(world.count(waiting).await, 1);
}
