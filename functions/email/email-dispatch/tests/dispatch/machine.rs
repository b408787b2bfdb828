//! The status machine of the ledger (C1): each transition, and what each answer of SES does.

use std::time::Duration;

use testkit::people::{LedgerRow, Notification};
use testkit::{Answer, World};

use crate::{accepted_by_ses, breaker, is, tick};

async fn one(name: &str, row: LedgerRow) -> (World, String) {
    let world = World::new(name).await;
    let mail = world.ledger([row]).await.remove(0);
    (world, mail)
}

#[tokio::test]
async fn what_ses_takes_is_sent_with_its_message_id() {
    let (world, mail) = one("what_ses_takes_is_sent", LedgerRow::essential("ann@example.test")).await;
    tick(&world).await;
    is(&world.entry(&mail).await, "SENT", None, 1);
    let ses = world.mailbox.mails().remove(0);
    let whole = format!(
        "SELECT count(*) FROM email_messages WHERE ses_message_id = '{}' AND subject = '{}' AND sent_at IS NOT NULL
         AND lease_until IS NULL AND delivery_rank = 10",
        ses.id, ses.subject
    );
    assert_eq!(world.count(&whole).await, 1);
    // Sent is sent.
    tick(&world).await;
    assert_eq!(world.mailbox.calls(), 1);
}

/// What an answer makes of a mail and of the breaker.
struct Row {
    answer: Answer,
    status: &'static str,
    reason: &'static str,
    attempts: i32,
    due_in: std::ops::Range<f64>,
    faults: i32,
    breaker: &'static str,
}

#[tokio::test]
async fn each_answer_of_ses_has_its_class() {
    let failed = |answer, reason| Row {
        answer,
        status: "FAILED",
        reason,
        attempts: 1,
        due_in: -60.0..1.0,
        faults: 0,
        breaker: "CLOSED",
    };
    let again = |answer, reason| Row {
        status: "PENDING",
        due_in: 49.0..66.0,
        faults: 1,
        ..failed(answer, reason)
    };
    let in_doubt = |answer| Row {
        status: "UNCERTAIN",
        faults: 1,
        ..failed(answer, "no_answer")
    };
    let later = |answer, reason, due_in| Row {
        status: "PENDING",
        attempts: 0,
        due_in,
        ..failed(answer, reason)
    };
    let refused = |answer, reason| Row {
        breaker: "OPEN",
        ..later(answer, reason, 885.0..901.0)
    };
    let table = [
        again(Answer::ServiceUnavailable, "ServiceUnavailable"),
        again(Answer::InternalError, "InternalServiceErrorException"),
        later(Answer::TooManyRequests, "throttled", -5.0..2.0),
        later(Answer::LimitExceeded, "daily_quota", 885.0..901.0),
        refused(Answer::SendingPaused, "SendingPausedException"),
        refused(Answer::AccountSuspended, "AccountSuspendedException"),
        refused(Answer::MailFromDomainNotVerified, "MailFromDomainNotVerifiedException"),
        refused(Answer::NotFound, "NotFoundException"),
        failed(Answer::BadRequest, "BadRequestException: The request is malformed."),
        failed(Answer::MessageRejected, "MessageRejected: The content is refused."),
        in_doubt(Answer::AcceptedButNoAnswer),
        in_doubt(Answer::Cut),
    ];
    let world = World::new("each_answer_of_ses_has_its_class").await;
    for row in table {
        let answer = row.answer;
        let mail = world.ledger([LedgerRow::essential("ann@example.test")]).await.remove(0);
        world.mailbox.fail_next(1, answer);
        tick(&world).await;
        let entry = world.entry(&mail).await;
        assert_eq!(
            (entry.verdict(), entry.attempts),
            ((row.status, Some(row.reason)), row.attempts),
            "{answer:?}"
        );
        assert!(row.due_in.contains(&entry.due_in), "{answer:?}: {entry:?}");
        assert_eq!(
            breaker(&world).await,
            (row.breaker.to_owned(), row.faults),
            "{answer:?}"
        );
        world.execute("DELETE FROM email_messages", &[]).await;
        let reset =
            "UPDATE circuit_breakers SET state = 'CLOSED', failure_count = 0, window_calls = 0, window_faults = 0";
        world.execute(reset, &[]).await;
        world
            .execute("UPDATE email_rate_limits SET next_free_at = now()", &[])
            .await;
    }
}

#[tokio::test]
async fn no_answer_within_ten_seconds_is_no_answer() {
    let (world, mail) = one("no_answer_within_ten_seconds", LedgerRow::payout("ann@example.test")).await;
    world.mailbox.fail_next(1, Answer::Hang);
    tick(&world).await;
    is(&world.entry(&mail).await, "UNCERTAIN", "no_answer", 1);
}

#[tokio::test]
async fn a_claim_whose_process_is_gone_is_in_doubt() {
    let world = World::new("a_claim_whose_process_is_gone").await;
    let mails = world
        .ledger([
            LedgerRow::payout("ann@example.test"),
            LedgerRow::payout("bob@example.test"),
        ])
        .await;
    let claimed =
        "UPDATE email_messages SET status = 'SENDING', attempts = 1, lease_until = now() + $2::interval WHERE id = $1";
    world.execute(claimed, &[&mails[0], "-1 second"]).await;
    world.execute(claimed, &[&mails[1], "1 minute"]).await;
    tick(&world).await;
    is(&world.entry(&mails[0]).await, "UNCERTAIN", "lease_expired", 1);
    is(&world.entry(&mails[1]).await, "SENDING", None, 1);
    assert_eq!(world.mailbox.calls(), 0);
}

#[tokio::test]
async fn essential_mail_in_doubt_is_sent_once_more_and_then_given_up() {
    let (world, mail) = one("essential_mail_in_doubt", LedgerRow::essential("ann@example.test")).await;
    world.mailbox.fail_next(2, Answer::AcceptedButNoAnswer);
    tick(&world).await;
    is(&world.entry(&mail).await, "UNCERTAIN", "no_answer", 1);
    for (minutes, calls, status) in [
        (14, 1, "UNCERTAIN"),
        (2, 2, "UNCERTAIN"),
        (16, 2, "UNCERTAIN"),
        (43, 2, "UNCERTAIN"),
    ] {
        world.advance_minutes(minutes).await;
        tick(&world).await;
        assert_eq!(
            (world.mailbox.calls(), &*world.entry(&mail).await.status),
            (calls, status)
        );
    }
    world.advance_minutes(2).await;
    tick(&world).await;
    is(&world.entry(&mail).await, "FAILED", "unconfirmed", 2);
    assert_eq!(world.mailbox.calls(), 2);
}

#[tokio::test]
async fn other_mail_in_doubt_is_never_sent_again() {
    for row in [LedgerRow::payout, LedgerRow::digest, LedgerRow::campaign] {
        let (world, mail) = one("other_mail_in_doubt", row("ann@example.test")).await;
        world.mailbox.fail_next(1, Answer::Cut);
        tick(&world).await;
        for minutes in [16, 43] {
            world.advance_minutes(minutes).await;
            tick(&world).await;
            is(&world.entry(&mail).await, "UNCERTAIN", "no_answer", 1);
        }
        world.advance_minutes(2).await;
        tick(&world).await;
        is(&world.entry(&mail).await, "FAILED", "unconfirmed", 1);
        world.advance_minutes(120).await;
        tick(&world).await;
        assert_eq!(world.mailbox.calls(), 1);
    }
}

#[tokio::test]
async fn an_event_of_ses_settles_the_doubt_for_the_mail_and_its_notification() {
    let (world, mail) = one("an_event_of_ses_settles", LedgerRow::payout("ann@example.test")).await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    world
        .execute(
            "UPDATE email_messages SET notification_id = $2 WHERE id = $1",
            &[&mail, &id],
        )
        .await;
    let queued = "UPDATE notifications SET email_state = 'QUEUED', email_message_id = $2 WHERE id = $1";
    world.execute(queued, &[&id, &mail]).await;
    world.mailbox.fail_next(1, Answer::AcceptedButNoAnswer);
    tick(&world).await;
    accepted_by_ses(&world, &mail, "ses-1").await;
    is(&world.entry(&mail).await, "SENT", None, 1);
    assert_eq!(world.email_state(&id).await, ("SENT".into(), None));
}

#[tokio::test]
async fn what_would_come_too_late_expires_and_its_notification_says_so() {
    let world = World::new("what_would_come_too_late").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    let mails = world
        .ledger(["ann@example.test", "held@example.test", "bob@example.test"].map(LedgerRow::payout))
        .await;
    let expired = "UPDATE email_messages SET expires_at = now() - interval '1 second', status = $2, notification_id = nullif($3, '') WHERE id = $1";
    world.execute(expired, &[&mails[0], "PENDING", &id]).await;
    world.execute(expired, &[&mails[1], "HELD", ""]).await;
    let queued = "UPDATE notifications SET email_state = 'QUEUED', email_message_id = $2 WHERE id = $1";
    world.execute(queued, &[&id, &mails[0]]).await;

    tick(&world).await;

    is(&world.entry(&mails[0]).await, "EXPIRED", "expired", 0);
    is(&world.entry(&mails[1]).await, "EXPIRED", "expired", 0);
    is(&world.entry(&mails[2]).await, "SENT", None, 1);
    assert_eq!(world.email_state(&id).await, ("SKIPPED".into(), Some("expired".into())));
}

#[tokio::test]
async fn what_is_settled_or_not_due_stays() {
    let world = World::new("what_is_settled_or_not_due").await;
    let settled = [
        "HELD",
        "SENT",
        "SUPPRESSED",
        "SKIPPED",
        "FAILED",
        "EXPIRED",
        "CANCELLED",
        "DIGESTED",
    ];
    let mut mails = Vec::new();
    for status in settled {
        let mail = world.ledger([LedgerRow::essential("ann@example.test")]).await.remove(0);
        world
            .execute("UPDATE email_messages SET status = $2 WHERE id = $1", &[&mail, status])
            .await;
        mails.push((mail, status));
    }
    let later = world.ledger([LedgerRow::essential("ann@example.test")]).await.remove(0);
    let in_a_minute = "UPDATE email_messages SET next_attempt_at = now() + interval '1 minute' WHERE id = $1";
    world.execute(in_a_minute, &[&later]).await;

    tick(&world).await;

    assert_eq!(world.mailbox.calls(), 0);
    for (mail, status) in mails {
        is(&world.entry(&mail).await, status, None, 0);
    }
    world.advance(Duration::from_secs(61)).await;
    tick(&world).await;
    is(&world.entry(&later).await, "SENT", None, 1);
}

#[tokio::test]
async fn a_row_that_no_program_can_send_fails_alone() {
    let world = World::new("a_row_that_no_program_can_send").await;
    let mut mails = world
        .ledger((0..5).map(|_| LedgerRow::essential("ann@example.test")))
        .await;
    let good = mails.pop().unwrap();
    for (mail, change) in mails.iter().zip([
        "category = 'gossip'",
        "template = 'never-was'",
        "variables = '{}'",
        "to_email = 'not an address'",
    ]) {
        world
            .execute(&format!("UPDATE email_messages SET {change} WHERE id = $1"), &[mail])
            .await;
    }
    tick(&world).await;
    for (mail, reason) in mails.iter().zip([
        "unknown mail category `gossip`",
        "template_error: unknown template `never-was`",
        "template_error: password-reset: missing field `reset_url`",
        "invalid_address",
    ]) {
        is(&world.entry(mail).await, "FAILED", reason, 0);
    }
    is(&world.entry(&good).await, "SENT", None, 1);
    assert_eq!(world.dead_letters(crate::JOB), []);
}
