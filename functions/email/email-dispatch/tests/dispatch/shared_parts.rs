//! Acceptance of the shared parts (C16), items 1 to 5; the sixth is in `pace`.

use futures::future::join_all;
use serde_json::json;
use testkit::people::LedgerRow;
use testkit::{Answer, World};

use crate::{JOB, accepted_by_ses, breaker, is, tick};

#[tokio::test]
async fn two_dispatches_of_the_same_hundred_rows_make_a_hundred_mails() {
    let world = World::new("two_dispatches_of_the_same_hundred").await;
    world.scale(JOB, 2);
    world.mailbox.latency(std::time::Duration::from_millis(2));
    // Small chunks, so that the two meet often.
    world.mailbox.account(|account| account.max_send_rate = 100.0);
    let ids = world
        .ledger((0..100).map(|n| LedgerRow::payout(&format!("u{n}@example.test"))))
        .await;
    let backwards: Vec<_> = ids.iter().rev().collect();
    let messages = [json!({ "emailIds": ids }), json!({ "emailIds": backwards })];

    let answers = join_all(messages.map(|message| world.invoke(JOB, message))).await;

    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // What one of them could not reserve waits for the next tick.
    for _ in 0..3 {
        world.advance_minutes(1).await;
        tick(&world).await;
    }
    assert_eq!(
        (world.mailbox.calls(), world.mailbox.accepted(), world.mailbox.doubled()),
        (100, 100, 0)
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status = 'SENT' AND attempts = 1")
            .await,
        100
    );
}

#[tokio::test]
async fn five_faults_open_the_circuit_and_two_successes_close_it() {
    let world = World::new("five_faults_open_the_circuit").await;
    world
        .execute(
            "INSERT INTO users (email, role) VALUES ('admin@example.test', 'ADMIN')",
            &[],
        )
        .await;
    world
        .ledger((0..5).map(|n| LedgerRow::payout(&format!("first{n}@example.test"))))
        .await;
    world.mailbox.fail_next(5, Answer::ServiceUnavailable);
    tick(&world).await;
    assert_eq!(breaker(&world).await, ("OPEN".into(), 5));

    world
        .ledger((0..50).map(|n| LedgerRow::payout(&format!("next{n}@example.test"))))
        .await;
    tick(&world).await;
    let waiting = "SELECT count(*) FROM email_messages m, circuit_breakers b WHERE m.to_email LIKE 'next%' AND m.status = 'PENDING'
                   AND m.attempts = 0 AND m.next_attempt_at BETWEEN b.opened_at + interval '60 seconds' AND b.opened_at + interval '70 seconds'";
    assert_eq!(world.count(waiting).await, 50);
    assert_eq!(world.mailbox.calls(), 5);
    let alerts = "SELECT count(*) FROM email_alerts WHERE type = 'circuit_open' AND severity = 'critical' AND resolved_at IS NULL";
    assert_eq!(world.count(alerts).await, 1);

    // One probe, and it fails: twice the cool-down.
    world.advance(std::time::Duration::from_secs(71)).await;
    world.mailbox.fail_next(1, Answer::ServiceUnavailable);
    tick(&world).await;
    assert_eq!((world.mailbox.calls(), breaker(&world).await.0), (6, "OPEN".into()));
    let longer = "SELECT count(*) FROM circuit_breakers WHERE next_probe_at BETWEEN now() + interval '110 seconds' AND now() + interval '120 seconds'";
    assert_eq!(world.count(longer).await, 1);

    world.advance(std::time::Duration::from_secs(131)).await;
    for state in ["HALF_OPEN", "CLOSED"] {
        world.deliver(JOB, [json!({ "limit": 1 })]).await;
        assert_eq!(breaker(&world).await.0, state);
    }
    assert_eq!(world.mailbox.accepted(), 2);
    tick(&world).await;
    // Fifty-five, and one mail about all this.
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (56, 0));
    let alert = world.mailbox.sent_to("admin@example.test");
    assert_eq!((alert.len(), &*alert[0].tags["template"]), (1, "email-alert"));
    assert_eq!(world.count(alerts).await, 0);
    assert_eq!(
        world
            .count("SELECT cooldown_seconds::bigint FROM circuit_breakers")
            .await,
        60
    );
}

#[tokio::test]
async fn half_of_twenty_calls_open_the_circuit_and_fewer_do_not() {
    for (mails, state) in [(19, "CLOSED"), (20, "OPEN")] {
        let world = World::new("half_of_twenty_calls").await;
        world.set("EMAIL_MAX_IN_FLIGHT", "1");
        world.mailbox.fail_every(2, Answer::ServiceUnavailable);
        world
            .ledger((0..mails).map(|n| LedgerRow::payout(&format!("u{n}@example.test"))))
            .await;
        tick(&world).await;
        assert_eq!((world.mailbox.calls(), breaker(&world).await.0), (mails, state.into()));
    }
}

#[tokio::test]
async fn whatever_the_number_of_workers_there_is_one_probe() {
    let world = World::new("there_is_one_probe").await;
    world.scale(JOB, 4);
    world.mailbox.latency(std::time::Duration::from_millis(100));
    world.mailbox.fail_next(1, Answer::InternalError);
    let open =
        "UPDATE circuit_breakers SET state = 'OPEN', failure_count = 5, opened_at = now(), next_probe_at = now()";
    world.execute(open, &[]).await;
    let mails = world
        .ledger((0..40).map(|n| LedgerRow::essential(&format!("u{n}@example.test"))))
        .await;
    world.function(JOB).await;
    let ten = |ids: &[String]| json!({ "emailIds": ids });

    let answers = join_all(mails.chunks(10).map(|ids| world.invoke(JOB, ten(ids)))).await;

    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((world.mailbox.calls(), breaker(&world).await.0), (1, "OPEN".into()));
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status = 'PENDING' AND attempts = 0")
            .await,
        39
    );
}

#[tokio::test]
async fn a_digest_that_was_accepted_without_an_answer_is_confirmed_by_its_event() {
    let world = World::new("a_digest_that_was_accepted").await;
    let mail = world.ledger([LedgerRow::digest("ann@example.test")]).await.remove(0);
    world.mailbox.fail_next(1, Answer::AcceptedButNoAnswer);
    for _ in 0..2 {
        tick(&world).await;
        is(&world.entry(&mail).await, "UNCERTAIN", "no_answer", 1);
        world.advance_minutes(20).await;
    }
    let sent = world.mailbox.tagged("email_id", &mail);
    assert_eq!((world.mailbox.calls(), sent.len()), (1, 1));
    accepted_by_ses(&world, &mail, &sent[0].id).await;
    is(&world.entry(&mail).await, "SENT", None, 1);
    tick(&world).await;
    assert_eq!(world.mailbox.calls(), 1);
}

#[tokio::test]
async fn who_unsubscribed_from_all_still_gets_the_password_reset() {
    let world = World::new("who_unsubscribed_from_all").await;
    let ann = world.user("Ann").await;
    world.prefers(&ann, "global_unsubscribe = true").await;
    let mails = world
        .ledger([LedgerRow::essential, LedgerRow::payout].map(|row| row("ann@example.test").of(&ann)))
        .await;
    tick(&world).await;
    is(&world.entry(&mails[0]).await, "SENT", None, 1);
    is(&world.entry(&mails[1]).await, "SKIPPED", "global_unsubscribe", 0);
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn every_mail_has_one_recipient_and_two_parts_and_all_but_essential_can_be_unsubscribed_from() {
    let world = World::new("every_mail_has_one_recipient").await;
    world
        .ledger(
            [
                LedgerRow::essential,
                LedgerRow::payout,
                LedgerRow::digest,
                LedgerRow::campaign,
            ]
            .map(|row| row("ann@example.test")),
        )
        .await;
    tick(&world).await;
    let mails = world.mailbox.mails();
    assert_eq!(mails.len(), 4);
    for mail in mails {
        let stream = &*mail.tags["stream"];
        assert_eq!(mail.to, ["ann@example.test"], "{stream}");
        assert!(!mail.text.is_empty() && mail.html.contains("<html"), "{stream}");
        let bulk = matches!(stream, "DIGEST" | "MARKETING");
        assert_eq!(
            mail.configuration_set,
            if bulk { "bulk" } else { "transactional" },
            "{stream}"
        );
        for header in ["List-Unsubscribe", "List-Unsubscribe-Post"] {
            assert_eq!(
                mail.headers.contains_key(header),
                stream != "ESSENTIAL",
                "{stream}: {header}"
            );
        }
        if let Some(how) = mail.headers.get("List-Unsubscribe-Post") {
            assert_eq!(how, "List-Unsubscribe=One-Click");
            let link = mail.headers["List-Unsubscribe"].trim_matches(['<', '>']);
            assert!(mail.text.contains(link), "{stream}");
        }
    }
}
