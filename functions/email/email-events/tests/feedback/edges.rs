//! Events that are late, unknown, foreign, doubled or broken, and how much a batch costs.

use futures::future::join_all;
use serde_json::json;
use testkit::World;
use testkit::people::LedgerRow;

use crate::{JOB, bounce, complaint, delivery, event, listed, open, send, sent, suppression, text};

const ANN: &str = "ann@example.test";

#[tokio::test]
async fn an_event_waits_for_its_mail_and_is_stored_in_the_end() {
    let world = World::new("an_event_waits_for_its_mail").await;
    world
        .deliver(
            JOB,
            [bounce("foreign", ANN, "Permanent", "General", "2025-10-20T09:00:05Z")],
        )
        .await;
    // Five attempts, thirty seconds apart; then it is stored, and a bounce counts even so.
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'done' AND attempts = 5")
            .await,
        1
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_events WHERE email_message_id IS NULL")
            .await,
        1
    );
    assert_eq!(suppression(&world, ANN).await, listed("BOUNCE hard", "ALL", true));

    // A mail that is known by SES's id alone is found.
    let mail = sent(&world, LedgerRow::payout(ANN)).await;
    let mut untagged = delivery(&mail, ANN, "2025-10-20T09:00:02Z");
    untagged["mail"]["tags"] = json!({});
    world.deliver(JOB, [untagged]).await;
    let linked = "SELECT count(*)::text FROM email_events WHERE email_message_id = $1 AND event_type = 'DELIVERED'";
    assert_eq!(text(&world, linked, &mail).await.as_deref(), Some("1"));
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn one_event_that_waits_keeps_no_other_waiting() {
    let world = World::new("one_event_that_waits").await;
    let mail = sent(&world, LedgerRow::payout(ANN)).await;
    world.send(
        JOB,
        [
            delivery("foreign", "x@example.test", "2025-10-20T09:00:02Z"),
            delivery(&mail, ANN, "2025-10-20T09:00:02Z"),
        ],
    );
    world.pump(JOB).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE delivered_at IS NOT NULL")
            .await,
        1
    );
    assert_eq!(world.queued(JOB).len(), 1);
}

#[tokio::test]
async fn garbage_is_dead_with_a_reason_and_what_is_new_is_stored() {
    let world = World::new("garbage_is_dead").await;
    let broken = [
        (json!({}), "missing field `mail`"),
        (json!({ "eventType": "Bounce" }), "mail"),
        (json!({ "kind": "unsubscribe" }), "token"),
        (
            json!({ "kind": "unsubscribe", "token": "t", "source": "carrier-pigeon" }),
            "carrier-pigeon",
        ),
        (
            json!({ "Type": "Notification", "Message": "Successfully validated SNS topic" }),
            "not JSON",
        ),
        (json!([1]), "JSON array"),
    ];
    let new = event("m", ANN, "Teleport", "teleport", json!({ "to": "Mars" }));
    // In one batch with what is broken.
    world.send(JOB, [new]);
    world.refuses(JOB, &broken).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_events WHERE event_type = 'OTHER' AND raw ->> 'eventType' = 'Teleport'")
            .await,
        1
    );
}

#[tokio::test]
async fn what_the_database_cannot_hold_takes_no_neighbour_with_it() {
    let world = World::new("what_the_database_cannot_hold").await;
    let mail = sent(&world, LedgerRow::payout(ANN)).await;
    let mut poisoned = delivery(&mail, ANN, "2025-10-20T09:00:03Z");
    poisoned["delivery"]["smtpResponse"] = json!("a\u{0}b");
    world
        .deliver(
            JOB,
            [delivery(&mail, ANN, "2025-10-20T09:00:02Z"), poisoned, send(&mail, ANN)],
        )
        .await;
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await,
        2
    );
    assert_eq!(world.dead_letters(JOB).len(), 1);
}

#[tokio::test]
async fn a_program_that_opens_and_a_complaint_that_is_none_are_stored_and_not_counted() {
    let world = World::new("a_program_that_opens").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::digest(ANN).of(&ann)).await;
    let mut prefetch = open(&mail, ANN, "2025-10-20T09:00:03Z");
    prefetch["open"]["userAgent"] = json!("Mozilla/5.0");
    world.deliver(JOB, [prefetch, complaint(&mail, ANN, "not-spam")]).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_events WHERE machine OR feedback_type = 'not-spam'")
            .await,
        2
    );
    let untouched =
        "SELECT concat_ws(' ', delivery_rank, first_opened_at, complained_at) FROM email_messages WHERE id = $1";
    assert_eq!(text(&world, untouched, &mail).await.as_deref(), Some("10"));
    assert_eq!(
        world.count("SELECT (SELECT count(*) FROM email_engagements) + (SELECT count(*) FROM email_suppressions) + (SELECT count(*) FROM email_preferences)").await,
        0
    );
}

#[tokio::test]
async fn a_second_reason_never_weakens_the_first() {
    let world = World::new("a_second_reason").await;
    let list = "INSERT INTO email_suppressions (email, reason, scope, bounce_type, expires_at) VALUES
                    ('a@example.test', 'BOUNCE', 'ALL', 'hard', NULL), ('b@example.test', 'UNSUBSCRIBE', 'NON_ESSENTIAL', NULL, NULL),
                    ('c@example.test', 'COMPLAINT', 'ALL_BUT_USER_INITIATED', NULL, NULL),
                    ('d@example.test', 'MANUAL', 'ALL', NULL, now() - interval '1 day')";
    world.execute(list, &[]).await;
    let mut events = Vec::new();
    for address in ["a@example.test", "b@example.test", "d@example.test"] {
        events.push(complaint(
            &sent(&world, LedgerRow::payout(address)).await,
            address,
            "abuse",
        ));
    }
    let mail = sent(&world, LedgerRow::payout("c@example.test")).await;
    events.push(bounce(
        &mail,
        "c@example.test",
        "Permanent",
        "General",
        "2025-10-20T09:00:05Z",
    ));
    world.deliver(JOB, events).await;
    for (address, scope) in [
        ("a", "ALL"),
        ("b", "ALL_BUT_USER_INITIATED"),
        ("c", "ALL"),
        ("d", "ALL_BUT_USER_INITIATED"),
    ] {
        assert_eq!(
            suppression(&world, &format!("{address}@example.test")).await,
            listed("COMPLAINT", scope, true),
            "{address}"
        );
    }
}

#[tokio::test]
async fn an_event_about_somebody_who_is_gone_is_stored_without_them() {
    let world = World::new("somebody_who_is_gone").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::payout(ANN).of(&ann)).await;
    world.execute("DELETE FROM users WHERE id = $1", &[&ann]).await;
    world.deliver(JOB, [complaint(&mail, ANN, "abuse")]).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_events WHERE user_id IS NULL AND email_message_id IS NOT NULL")
            .await,
        1
    );
    assert_eq!(
        suppression(&world, ANN).await,
        listed("COMPLAINT", "ALL_BUT_USER_INITIATED", true)
    );
    assert_eq!(world.count("SELECT count(*) FROM email_preferences").await, 0);
}

#[tokio::test]
async fn what_ses_says_of_a_domain_in_ascii_is_about_the_address_of_the_ledger() {
    let world = World::new("a_domain_in_ascii").await;
    let mail = sent(&world, LedgerRow::payout("ann@bücher.example")).await;
    world
        .deliver(
            JOB,
            [bounce(
                &mail,
                "ann@xn--bcher-kva.example",
                "Permanent",
                "General",
                "2025-10-20T09:00:05Z",
            )],
        )
        .await;
    assert_eq!(
        suppression(&world, "ann@bücher.example").await,
        listed("BOUNCE hard", "ALL", true)
    );
}

#[tokio::test]
async fn two_processes_count_soft_bounces_together() {
    let world = World::new("two_processes_count_soft_bounces").await;
    world.scale(JOB, 2);
    let mut mails = Vec::new();
    for _ in 0..3 {
        mails.push(sent(&world, LedgerRow::payout(ANN)).await);
    }
    let soft = |mail: &str, day: u32| bounce(mail, ANN, "Transient", "General", &format!("2025-10-{day}T09:00:05Z"));
    world.deliver(JOB, [soft(&mails[0], 10)]).await;
    let both = [soft(&mails[1], 11), soft(&mails[2], 12)].map(|event| world.invoke(JOB, event));
    for answer in join_all(both).await {
        answer.expect("both settle");
    }
    assert_eq!(suppression(&world, ANN).await, listed("BOUNCE soft", "ALL", false));
}
