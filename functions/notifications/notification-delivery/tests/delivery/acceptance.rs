//! The six acceptance checks.

use serde_json::{Value, json};
use testkit::people::Notification;
use testkit::{Answer, World};

use crate::{JOB, deliver, delivered, message, state};

#[tokio::test]
async fn a_medium_notification_is_mailed_once_however_often_its_message_comes() {
    let world = World::new("a_medium_notification_is_mailed_once").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;

    for _ in 0..3 {
        deliver(&world, [&id]).await;
    }

    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(world.email_state(&id).await, state("SENT", None));
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE emailed_at IS NOT NULL")
            .await,
        1
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn priority_and_digest_frequency_decide_between_mail_digest_and_app() {
    let world = World::new("priority_and_digest_frequency_decide").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    world.prefers(&ann, "digest_frequency = 'DAILY'").await;
    let of = |priority| Notification {
        priority,
        ..Notification::default()
    };

    assert_eq!(delivered(&world, &ann, of("MEDIUM")).await, state("DIGEST", None));
    assert_eq!(world.mailbox.accepted(), 0);
    assert_eq!(delivered(&world, &ann, of("HIGH")).await, state("SENT", None));
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(
        delivered(&world, &bob, of("LOW")).await,
        state("SKIPPED", "in_app_only")
    );
    assert_eq!(world.mailbox.sent_to("bob@example.test").len(), 0);
}

#[tokio::test]
async fn a_payout_without_its_transfer_is_told_plainly_and_a_whole_one_with_its_amount() {
    let world = World::new("a_payout_is_told").await;
    let ann = world.user("Ann").await;
    let part = json!({ "status": "COMPLETED", "amount_cents": 125_000, "currency": "USD", "payout_id": "p1" });
    let mut whole = part.clone();
    whole["transfer_id"] = "tr_1".into();
    whole["estimated_arrival"] = "2025-10-24".into();

    for metadata in [part, whole] {
        let payout = Notification {
            kind: "PAYOUT",
            priority: "HIGH",
            metadata,
            ..Notification::default()
        };
        assert_eq!(delivered(&world, &ann, payout).await, state("SENT", None));
    }

    let mails = world.mailbox.sent_to("ann@example.test");
    let templates: Vec<_> = mails.iter().map(|mail| &*mail.tags["template"]).collect();
    assert_eq!(templates, ["notification", "payout-confirmation"]);
    assert!(mails[1].text.contains("$1,250.00") && mails[1].html.contains("$1,250.00"));
}

#[tokio::test]
async fn a_conversation_is_mailed_once_in_five_minutes() {
    let world = World::new("a_conversation_is_mailed_once_in_five_minutes").await;
    let ann = world.user("Ann").await;
    let said = |text: &str| Notification {
        kind: "MESSAGE",
        message: text.to_owned(),
        metadata: json!({ "thread_id": "thread_1", "sender_name": "Grace" }),
        ..Notification::default()
    };
    let mut ids = Vec::new();
    for text in ["Hello", "Are you there?"] {
        ids.push(world.notification(&ann, said(text)).await);
    }
    deliver(&world, &ids).await;
    world.advance_minutes(1).await;
    assert_eq!(
        delivered(&world, &ann, said("Well?")).await,
        state("SKIPPED", "cooldown")
    );
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);

    world.advance_minutes(5).await;
    assert_eq!(delivered(&world, &ann, said("Good morning")).await, state("SENT", None));
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 2);
    assert_eq!(world.mailbox.mails()[1].tags["template"], "new-message");
}

#[tokio::test]
async fn a_mail_that_ses_refuses_twice_leaves_at_the_third_attempt() {
    let world = World::new("a_mail_that_ses_refuses_twice").await;
    world.mailbox.fail_next(2, Answer::ServiceUnavailable);
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;

    let drained = deliver(&world, [&id]).await;

    assert_eq!((world.mailbox.calls(), world.mailbox.accepted()), (3, 1));
    let entry = world.entry_of(&id).await;
    assert_eq!((entry.verdict(), entry.attempts), (("SENT", None), 3));
    assert_eq!(drained.returned, 2);
    assert!((5..=9).contains(&drained.waited.as_secs()), "{drained:?}");
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn one_malformed_body_among_ten_goes_to_the_dead_letters_alone() {
    let world = World::new("one_malformed_body_among_ten").await;
    let ann = world.user("Ann").await;
    let queue = testkit::world::queue_name(JOB);
    for n in 0..10 {
        if n == 4 {
            world.queue.send(&queue, "{\"notificationId\": \"trun");
        } else {
            let id = world.notification(&ann, Notification::default()).await;
            world.queue.send(&queue, message(&id).to_string());
        }
    }

    let drained = world.pump(JOB).await;

    assert_eq!(
        (drained.invocations, drained.returned, drained.failures.len()),
        (1, 0, 0)
    );
    assert_eq!(world.queued(JOB), []);
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await,
        9
    );
    assert_eq!(world.mailbox.accepted(), 9);
    let dead = world.dead_letters(JOB);
    assert_eq!((dead.len(), &*dead[0].body), (1, "{\"notificationId\": \"trun"));
    assert!(
        dead[0].attributes["reason"].contains("JSON"),
        "{:?}",
        dead[0].attributes
    );
}

#[tokio::test]
async fn wrong_ids_and_slots_are_dead_with_a_reason() {
    let world = World::new("wrong_ids_and_slots_are_dead").await;
    let future = chrono::Utc::now() + chrono::Duration::hours(1);
    let bodies = [
        (json!({}), "notificationId"),
        (json!({ "notificationId": 5 }), "expected a string"),
        (json!({ "notificationId": "" }), "an id is"),
        (json!({ "notificationId": "a b'; DROP TABLE users" }), "an id is"),
        (json!({ "notificationId": "x".repeat(65) }), "an id is"),
        (json!({ "notificationId": "n1", "asOf": "yesterday" }), "invalid"),
        (json!({ "notificationId": "n1", "asOf": future }), "asOf"),
        (json!(["n1"]), ""),
    ];

    let drained = world.deliver(JOB, bodies.iter().map(|(body, _)| body.clone())).await;

    assert_eq!(drained.returned, 0);
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), bodies.len());
    for (body, word) in bodies {
        let letter = dead.iter().find(|letter| letter.json::<Value>() == body).unwrap();
        assert!(
            letter.attributes["reason"].contains(word),
            "{body}: {:?}",
            letter.attributes
        );
    }
}
