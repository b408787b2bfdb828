//! The acceptance checks of the specification, and what stops the next mail.

use serde_json::json;
use testkit::World;
use testkit::people::LedgerRow;

use crate::campaigns::{campaign, counts, recipient};
use crate::{
    DISPATCH, JOB, bounce, claim, click, complaint, delivery, listed, open, send, sent, suppression, text, unsubscribe,
};

const ANN: &str = "ann@example.test";

#[tokio::test]
async fn a_permanent_bounce_that_comes_three_times_is_one_event_one_suppression_and_one_in_the_campaign() {
    let world = World::new("a_permanent_bounce_three_times").await;
    let campaign = campaign(&world).await;
    let mail = recipient(&world, &campaign, ANN).await;
    let event = bounce(&mail, ANN, "Permanent", "General", "2025-10-20T09:00:05Z");

    world.deliver(JOB, [event.clone(), event.clone()]).await;
    world.deliver(JOB, [event]).await;

    assert_eq!(world.count("SELECT count(*) FROM email_events").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM email_suppressions").await, 1);
    assert_eq!(suppression(&world, ANN).await, listed("BOUNCE hard", "ALL", true));
    assert_eq!(counts(&world).await, [("bounced", 1)]);
    let recipient = "SELECT status FROM campaign_recipients WHERE email_message_id = $1";
    assert_eq!(text(&world, recipient, &mail).await.as_deref(), Some("BOUNCED"));
    assert_eq!(
        text(&world, "SELECT bounce_class FROM email_messages WHERE id = $1", &mail)
            .await
            .as_deref(),
        Some("hard")
    );
}

#[tokio::test]
async fn click_open_and_delivery_in_that_order_end_as_clicked_with_all_stamps_and_each_counted_once() {
    let world = World::new("click_open_and_delivery").await;
    let campaign = campaign(&world).await;
    let mail = recipient(&world, &campaign, ANN).await;
    for event in [
        click(&mail, ANN, "2025-10-20T09:10:00Z"),
        open(&mail, ANN, "2025-10-20T09:05:00Z"),
        delivery(&mail, ANN, "2025-10-20T09:00:02Z"),
        // Again, and later: nothing counts twice.
        open(&mail, ANN, "2025-10-20T09:20:00Z"),
        click(&mail, ANN, "2025-10-20T09:21:00Z"),
    ] {
        world.deliver(JOB, [event]).await;
    }
    assert_eq!(counts(&world).await, [("clicked", 1), ("delivered", 1), ("opened", 1)]);
    let stamps = "SELECT concat_ws(' ', status, status_rank, to_char(delivered_at AT TIME ZONE 'UTC', 'HH24:MI:SS'),
                                   to_char(opened_at AT TIME ZONE 'UTC', 'HH24:MI'), to_char(first_clicked_at AT TIME ZONE 'UTC', 'HH24:MI'))
                  FROM campaign_recipients WHERE email_message_id = $1";
    assert_eq!(
        text(&world, stamps, &mail).await.as_deref(),
        Some("CLICKED 40 09:00:02 09:05 09:10")
    );
    let stamps = "SELECT concat_ws(' ', delivery_rank, to_char(delivered_at AT TIME ZONE 'UTC', 'HH24:MI:SS'),
                                   to_char(first_opened_at AT TIME ZONE 'UTC', 'HH24:MI'), to_char(first_clicked_at AT TIME ZONE 'UTC', 'HH24:MI'))
                  FROM email_messages WHERE id = $1";
    assert_eq!(
        text(&world, stamps, &mail).await.as_deref(),
        Some("40 09:00:02 09:05 09:10")
    );
    let engagement =
        "SELECT concat_ws(' ', unique_open_count, click_count, to_char(last_engaged_at AT TIME ZONE 'UTC', 'HH24:MI'))
                      FROM email_engagements WHERE email = $1";
    assert_eq!(text(&world, engagement, ANN).await.as_deref(), Some("1 2 09:21"));
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_campaign_clicks WHERE device_type = 'mobile'")
            .await,
        2
    );
}

#[tokio::test]
async fn the_third_soft_bounce_in_ten_days_suppresses_for_thirty_and_the_second_does_not() {
    let world = World::new("the_third_soft_bounce").await;
    let soft = async |day: &str, sub_type: &str| {
        let mail = sent(&world, LedgerRow::payout(ANN)).await;
        let event = bounce(&mail, ANN, "Transient", sub_type, &format!("2025-10-{day}T09:00:05Z"));
        // SES may say it twice, in two reports.
        let mut again = event.clone();
        again["bounce"]["feedbackId"] = json!("another");
        world.deliver(JOB, [event, again]).await;
    };
    soft("10", "General").await;
    soft("15", "MailboxFull").await;
    soft("16", "MessageTooLarge").await;
    assert_eq!(suppression(&world, ANN).await, None);
    soft("20", "General").await;
    assert_eq!(suppression(&world, ANN).await, listed("BOUNCE soft", "ALL", false));
    let until =
        "SELECT expires_at::text FROM email_suppressions WHERE email = $1 AND expires_at = '2025-11-19T09:00:05Z'";
    assert!(text(&world, until, ANN).await.is_some());
}

#[tokio::test]
async fn a_delivery_in_between_forgives_what_was_before_it() {
    let world = World::new("a_delivery_in_between").await;
    for (day, kind) in [
        ("10", "Transient"),
        ("11", "Undetermined"),
        ("12", "Delivery"),
        ("13", "Transient"),
        ("14", "Transient"),
    ] {
        let mail = sent(&world, LedgerRow::payout(ANN)).await;
        let at = format!("2025-10-{day}T09:00:05Z");
        let event = match kind {
            "Delivery" => delivery(&mail, ANN, &at),
            kind => bounce(&mail, ANN, kind, "General", &at),
        };
        world.deliver(JOB, [event]).await;
    }
    assert_eq!(suppression(&world, ANN).await, None);
    let mail = sent(&world, LedgerRow::payout(ANN)).await;
    world
        .deliver(
            JOB,
            [bounce(&mail, ANN, "Transient", "General", "2025-10-15T09:00:05Z")],
        )
        .await;
    assert!(suppression(&world, ANN).await.is_some());
}

#[tokio::test]
async fn after_a_complaint_campaigns_and_payouts_stay_and_a_password_reset_leaves() {
    let world = World::new("after_a_complaint").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::campaign(ANN).of(&ann)).await;
    world.deliver(JOB, [complaint(&mail, ANN, "abuse")]).await;
    assert_eq!(
        suppression(&world, ANN).await,
        listed("COMPLAINT", "ALL_BUT_USER_INITIATED", true)
    );

    let next = world
        .ledger([
            LedgerRow::campaign(ANN).of(&ann),
            LedgerRow::payout(ANN).of(&ann),
            LedgerRow::essential(ANN).of(&ann),
        ])
        .await;
    world.deliver(DISPATCH, [json!({})]).await;

    assert_eq!(world.entry(&next[0]).await.verdict(), ("SUPPRESSED", Some("complaint")));
    assert_eq!(world.entry(&next[1]).await.verdict(), ("SUPPRESSED", Some("complaint")));
    assert_eq!(world.entry(&next[2]).await.verdict(), ("SENT", None));
    // And the category is off, should somebody take the address from the list.
    let off = "SELECT newsletters::text || payouts::text FROM email_preferences WHERE user_id = $1";
    assert_eq!(text(&world, off, &ann).await.as_deref(), Some("falsetrue"));
    let log = "SELECT concat_ws(' ', action, source, categories[1], previous, current) FROM email_unsubscribe_log WHERE user_id = $1";
    let change = r#"CATEGORY complaint newsletters {"newsletters": true} {"newsletters": false}"#;
    assert_eq!(text(&world, log, &ann).await.as_deref(), Some(change));
}

#[tokio::test]
async fn a_bounce_stops_the_next_mail_to_that_address() {
    let world = World::new("a_bounce_stops_the_next_mail").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    let first = sent(&world, LedgerRow::payout(ANN).of(&ann)).await;
    let next = world
        .ledger([
            LedgerRow::payout(ANN).of(&ann),
            LedgerRow::essential(ANN).of(&ann),
            LedgerRow::payout("bob@example.test").of(&bob),
        ])
        .await;
    world
        .deliver(
            JOB,
            [bounce(&first, ANN, "Permanent", "NoEmail", "2025-10-20T09:00:05Z")],
        )
        .await;
    world.deliver(DISPATCH, [json!({})]).await;
    for mail in &next[..2] {
        assert_eq!(world.entry(mail).await.verdict(), ("SUPPRESSED", Some("bounce")));
    }
    assert_eq!(world.entry(&next[2]).await.verdict(), ("SENT", None));
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn an_unsubscribe_click_stops_the_category_and_not_the_password_mail() {
    let world = World::new("an_unsubscribe_click").await;
    let ann = world.user("Ann").await;
    let first = world.ledger([LedgerRow::payout(ANN).of(&ann)]).await.remove(0);
    world.deliver(DISPATCH, [json!({})]).await;
    // The link is the one of the mail.
    let mail = world.mailbox.sent_to(ANN).remove(0);
    let link = mail.headers["List-Unsubscribe"].trim_matches(['<', '>']).to_owned();
    let token = link.rsplit_once('/').expect("a link").1;
    world
        .deliver(
            JOB,
            [json!({ "kind": "unsubscribe", "token": token, "source": "one_click" })],
        )
        .await;

    let digest = LedgerRow::digest(ANN).of(&ann);
    let next = world
        .ledger([
            LedgerRow::payout(ANN).of(&ann),
            LedgerRow::essential(ANN).of(&ann),
            digest,
        ])
        .await;
    world.deliver(DISPATCH, [json!({})]).await;

    assert_eq!(world.entry(&next[0]).await.verdict(), ("SKIPPED", Some("category_off")));
    assert_eq!(world.entry(&next[1]).await.verdict(), ("SENT", None));
    assert_eq!(world.entry(&next[2]).await.verdict(), ("SENT", None));
    let stamped = "SELECT (unsubscribed_at IS NOT NULL AND delivery_rank = 55)::text FROM email_messages WHERE id = $1";
    assert_eq!(text(&world, stamped, &first).await.as_deref(), Some("true"));
}

#[tokio::test]
async fn one_click_on_a_digest_ends_that_digest_and_no_other_and_a_second_changes_nothing() {
    let world = World::new("one_click_on_a_digest").await;
    let ann = world.user("Ann").await;
    world
        .prefers(
            &ann,
            "digest_frequency = 'DAILY', email_frequency = 'WEEKLY', message_email_mode = 'DIGEST'",
        )
        .await;
    let mail = sent(&world, LedgerRow::digest(ANN).of(&ann)).await;
    let mut claim = claim(&mail, ANN, Some(&ann), "announcements");
    claim.digest = Some("notification-digest".into());

    world.deliver(JOB, [unsubscribe(&claim)]).await;
    world.deliver(JOB, [unsubscribe(&claim), unsubscribe(&claim)]).await;

    let now = "SELECT concat_ws(' ', digest_frequency, email_frequency, message_email_mode, announcements) FROM email_preferences WHERE user_id = $1";
    assert_eq!(text(&world, now, &ann).await.as_deref(), Some("NEVER WEEKLY DIGEST t"));
    let log = "SELECT string_agg(concat_ws(' ', action, source, previous, current, ip_address, user_agent), '; ') FROM email_unsubscribe_log
               WHERE user_id = $1";
    let change = r#"DIGEST one_click {"digest_frequency": "DAILY"} {"digest_frequency": "NEVER"} 192.0.2.7 Mail/1.0"#;
    assert_eq!(text(&world, log, &ann).await.as_deref(), Some(change));
}

#[tokio::test]
async fn one_event_in_three_wrappings_is_one_row() {
    let world = World::new("one_event_in_three_wrappings").await;
    let mail = sent(&world, LedgerRow::payout(ANN)).await;
    let event = delivery(&mail, ANN, "2025-10-20T09:00:02Z");
    let sns = json!({ "Type": "Notification", "MessageId": "m", "TopicArn": "arn", "Message": event.to_string() });
    let bridge =
        json!({ "version": "0", "id": "i", "detail-type": "Email Delivered", "source": "aws.ses", "detail": event });
    world.deliver(JOB, [event, sns, bridge]).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_events WHERE event_type = 'DELIVERED' AND raw ? 'delivery'")
            .await,
        1
    );
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await,
        3
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn an_event_settles_a_mail_in_doubt_and_it_is_not_sent_again() {
    let world = World::new("an_event_settles_a_mail_in_doubt").await;
    let ann = world.user("Ann").await;
    let states = [
        ("UNCERTAIN", "no_answer", "SENT"),
        ("FAILED", "unconfirmed", "SENT"),
        // Essential mail, about to be sent once more.
        ("PENDING", "", "SENT"),
        ("SENDING", "", "SENT"),
        ("FAILED", "invalid_address", "FAILED"),
    ];
    let mut mails = Vec::new();
    for (status, reason, _) in states {
        let notification = world.notification(&ann, testkit::people::Notification::default()).await;
        let mail = world.ledger([LedgerRow::essential(ANN).of(&ann)]).await.remove(0);
        let doubt =
            "UPDATE email_messages SET status = $2, status_reason = nullif($3, ''), attempts = 1, notification_id = $4,
                            lease_until = CASE WHEN $2 = 'SENDING' THEN now() + interval '2 minutes' END WHERE id = $1";
        world.execute(doubt, &[&mail, status, reason, &notification]).await;
        let queued = "UPDATE notifications SET email_state = 'QUEUED', email_message_id = $2 WHERE id = $1";
        world.execute(queued, &[&notification, &mail]).await;
        mails.push((mail, notification));
    }
    world.deliver(JOB, mails.iter().map(|(mail, _)| send(mail, ANN))).await;
    for ((mail, notification), (status, reason, then)) in mails.iter().zip(states) {
        assert_eq!(world.entry(mail).await.status, then, "{status} {reason}");
        let state = if then == "SENT" { "SENT" } else { "QUEUED" };
        assert_eq!(world.email_state(notification).await.0, state, "{status} {reason}");
    }
    let learned = "SELECT count(*) FROM email_messages WHERE status = 'SENT' AND ses_message_id = 'ses-' || id AND sent_at = '2025-10-20T09:00:00Z'";
    assert_eq!(world.count(learned).await, 4);
    world.advance_minutes(90).await;
    world.deliver(DISPATCH, [json!({})]).await;
    assert_eq!(world.mailbox.calls(), 0);
}
