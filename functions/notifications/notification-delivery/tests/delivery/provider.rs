//! What SES answers, and what becomes of the notification then (step 6).

use std::time::Duration;

use serde_json::json;
use testkit::people::Notification;
use testkit::{Answer, World};

use crate::{DISPATCH, JOB, deliver, state};

async fn one(name: &str) -> (World, String) {
    let world = World::new(name).await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    (world, id)
}

#[tokio::test]
async fn trouble_of_the_provider_ends_in_the_ledger_and_not_in_the_dead_letters() {
    let (world, id) = one("trouble_of_the_provider").await;
    world.mailbox.fail_next(3, Answer::InternalError);

    let drained = deliver(&world, [&id]).await;

    assert_eq!(drained.returned, 2);
    assert_eq!(world.dead_letters(JOB), []);
    assert_eq!(world.email_state(&id).await, state("QUEUED", None));
    let entry = world.entry_of(&id).await;
    assert_eq!(entry.verdict(), ("PENDING", Some("InternalServiceErrorException")));
    assert_eq!(entry.attempts, 3);
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE in_app_at IS NULL")
            .await,
        0
    );

    world.advance(Duration::from_secs(60)).await;
    world.deliver(DISPATCH, [json!({})]).await;
    assert_eq!(world.email_state(&id).await, state("SENT", None));
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn what_has_to_wait_is_acknowledged_and_waits_in_the_ledger() {
    for (answer, reason, due) in [
        (Answer::TooManyRequests, "throttled", 0.0..10.0),
        (Answer::LimitExceeded, "daily_quota", 890.0..901.0),
        (Answer::SendingPaused, "SendingPausedException", 890.0..901.0),
    ] {
        let (world, id) = one("what_has_to_wait").await;
        world.mailbox.fail_next(1, answer);

        let drained = deliver(&world, [&id]).await;

        assert_eq!((drained.invocations, drained.returned), (1, 0), "{answer:?}");
        assert_eq!(world.email_state(&id).await, state("QUEUED", None), "{answer:?}");
        let entry = world.entry_of(&id).await;
        assert_eq!(
            (entry.verdict(), entry.attempts),
            (("PENDING", Some(reason)), 0),
            "{answer:?}"
        );
        assert!(due.contains(&entry.due_in), "{answer:?}: {entry:?}");
        assert_eq!(world.dead_letters(JOB), [], "{answer:?}");
    }
}

#[tokio::test]
async fn a_mail_that_can_never_leave_fails_and_its_notification_says_why() {
    for answer in [Answer::MessageRejected, Answer::BadRequest] {
        let (world, id) = one("a_mail_that_can_never_leave").await;
        world.mailbox.fail_next(1, answer);

        let drained = deliver(&world, [&id]).await;

        assert_eq!(drained.returned, 0);
        let (became, reason) = world.email_state(&id).await;
        assert_eq!(became, "FAILED");
        assert_eq!(world.entry_of(&id).await.reason, reason);
        assert!(reason.unwrap().contains("refused") || answer == Answer::BadRequest);
        assert_eq!(
            world
                .count("SELECT count(*) FROM notifications WHERE in_app_at IS NULL")
                .await,
            0
        );
        assert_eq!(world.dead_letters(JOB), []);
    }
}

#[tokio::test]
async fn a_mail_in_doubt_is_not_sent_again_however_often_its_message_comes() {
    for answer in [Answer::AcceptedButNoAnswer, Answer::Cut] {
        let (world, id) = one("a_mail_in_doubt").await;
        world.mailbox.fail_next(1, answer);

        for _ in 0..3 {
            deliver(&world, [&id]).await;
        }

        assert_eq!(world.mailbox.calls(), 1, "{answer:?}");
        assert_eq!(world.email_state(&id).await, state("QUEUED", None));
        assert_eq!(world.entry_of(&id).await.status, "UNCERTAIN");
        // Nobody ever confirms it.
        world.deliver(DISPATCH, [json!({})]).await;
        world.advance_minutes(61).await;
        world.deliver(DISPATCH, [json!({})]).await;
        assert_eq!(world.email_state(&id).await, state("FAILED", "unconfirmed"));
        assert_eq!(world.mailbox.calls(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn an_open_circuit_uses_no_attempt_and_returns_no_message() {
    let (world, id) = one("an_open_circuit").await;
    world
        .execute(
            "UPDATE circuit_breakers SET state = 'OPEN', opened_at = now(), next_probe_at = now() + interval '60 seconds' WHERE name = 'ses'",
            &[],
        )
        .await;

    let drained = deliver(&world, [&id]).await;

    assert_eq!(drained.returned, 0);
    assert_eq!(world.mailbox.calls(), 0);
    let entry = world.entry_of(&id).await;
    assert_eq!(
        (entry.verdict(), entry.attempts),
        (("PENDING", Some("circuit_open")), 0)
    );
    assert!((55.0..=70.0).contains(&entry.due_in), "{entry:?}");

    world.advance(Duration::from_secs(71)).await;
    world.deliver(DISPATCH, [json!({})]).await;
    assert_eq!(world.email_state(&id).await, state("SENT", None));
}

#[tokio::test]
async fn a_refusal_that_comes_after_the_decision_reaches_the_notification() {
    let (world, id) = one("a_refusal_after_the_decision").await;
    world.mailbox.fail_next(3, Answer::ServiceUnavailable);
    deliver(&world, [&id]).await;
    world
        .execute(
            "INSERT INTO email_suppressions (email, reason, scope) VALUES ('ann@example.test', 'BOUNCE', 'ALL')",
            &[],
        )
        .await;
    world.advance_minutes(1).await;

    world.deliver(DISPATCH, [json!({})]).await;

    assert_eq!(world.entry_of(&id).await.verdict(), ("SUPPRESSED", Some("bounce")));
    assert_eq!(world.email_state(&id).await, state("SKIPPED", "bounce"));
    assert_eq!(world.mailbox.accepted(), 0);
}
