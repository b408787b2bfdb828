//! The send gate on the ledger (C6), where `notification-delivery` cannot reach it.

use testkit::World;
use testkit::people::LedgerRow;

use crate::{is, tick};

#[tokio::test]
async fn each_rule_of_the_gate_ends_or_postpones_a_mail() {
    let world = World::new("each_rule_of_the_gate").await;
    let matching = |to: &str| LedgerRow {
        template: "project-match-notification",
        category: "project_invitations",
        variables: serde_json::json!({
            "project_name": "P", "brand_name": "B", "project_description": "D", "project_url": "/p"
        }),
        ..LedgerRow::payout(to)
    };
    let suppress = |scope: &'static str| match scope {
        "ALL" => {
            "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'BOUNCE', 'ALL' FROM users WHERE id = $1"
        }
        _ => {
            "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'COMPLAINT', 'ALL_BUT_USER_INITIATED' FROM users WHERE id = $1"
        }
    };
    type Make<'a> = &'a dyn Fn(&str) -> LedgerRow;
    let deletion: Make<'_> = &|to| LedgerRow {
        template: "account-deleted",
        variables: serde_json::json!({ "deletion_date": "2025-11-19T23:30:00Z" }),
        ..LedgerRow::essential(to)
    };
    let gone = "UPDATE users SET is_active = false WHERE id = $1";
    let prefs = "INSERT INTO email_preferences (user_id, email_frequency) VALUES ($1, 'DAILY')";
    let sent = "INSERT INTO email_messages (dedup_key, user_id, to_email, stream, category, template, expires_at, sender_domain, status, sent_at)
                SELECT 'sent:' || n, $1, 'x@example.test', 'MARKETING', 'newsletters', 'notification', now(), 'x', 'SENT', now() - interval '23 hours'
                FROM generate_series(1, 3) n";
    let table: &[(&str, &str, Make<'_>, &str, Option<&str>)] = &[
        (
            "inactive",
            gone,
            &LedgerRow::essential,
            "SKIPPED",
            Some("user_inactive"),
        ),
        ("told of the deletion", gone, deletion, "SENT", None),
        (
            "unverified",
            "UPDATE users SET email_verified = NULL WHERE id = $1",
            &LedgerRow::digest,
            "SKIPPED",
            Some("email_unverified"),
        ),
        (
            "bounced",
            suppress("ALL"),
            &LedgerRow::essential,
            "SUPPRESSED",
            Some("bounce"),
        ),
        (
            "complained",
            suppress("USER"),
            &LedgerRow::campaign,
            "SUPPRESSED",
            Some("complaint"),
        ),
        (
            "complained, but asked",
            suppress("USER"),
            &LedgerRow::essential,
            "SENT",
            None,
        ),
        (
            "category off",
            "INSERT INTO email_preferences (user_id, newsletters) VALUES ($1, false)",
            &LedgerRow::campaign,
            "SKIPPED",
            Some("category_off"),
        ),
        ("bundled", prefs, &matching, "HELD", None),
        ("not bundled", prefs, &LedgerRow::payout, "SENT", None),
        (
            "the fourth campaign of a day",
            sent,
            &LedgerRow::campaign,
            "SKIPPED",
            Some("frequency_cap"),
        ),
        ("a payout does not count", sent, &LedgerRow::payout, "SENT", None),
    ];
    let mut mails = Vec::new();
    for (n, (_, fact, row, ..)) in table.iter().enumerate() {
        let user = world.user(&format!("u{n}")).await;
        world
            .execute(&fact.replace("sent:", &format!("sent:{n}:")), &[&user])
            .await;
        mails.push(
            world
                .ledger([row(&format!("u{n}@example.test")).of(&user)])
                .await
                .remove(0),
        );
    }
    tick(&world).await;
    for ((when, _, _, status, reason), mail) in table.iter().zip(&mails) {
        assert_eq!(world.entry(mail).await.verdict(), (*status, *reason), "{when}");
    }
}

#[tokio::test]
async fn three_campaigns_a_day_reach_a_user_even_from_one_page() {
    let world = World::new("three_campaigns_a_day").await;
    let ann = world.user("Ann").await;
    world
        .ledger((0..5).map(|_| LedgerRow::campaign("ann@example.test").of(&ann)))
        .await;
    tick(&world).await;
    assert_eq!(world.mailbox.accepted(), 3);
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status_reason = 'frequency_cap'")
            .await,
        2
    );
}

#[tokio::test]
async fn paused_campaigns_wait_five_minutes_at_a_time() {
    let world = World::new("paused_campaigns_wait").await;
    world
        .execute("UPDATE email_sending_state SET marketing_paused = true", &[])
        .await;
    let mails = world
        .ledger([
            LedgerRow::campaign("ann@example.test"),
            LedgerRow::digest("ann@example.test"),
        ])
        .await;
    tick(&world).await;
    let entry = world.entry(&mails[0]).await;
    is(&entry, "PENDING", "marketing_paused", 0);
    assert!((290.0..=300.0).contains(&entry.due_in), "{entry:?}");
    is(&world.entry(&mails[1]).await, "SENT", None, 1);
}

#[tokio::test]
async fn an_address_without_a_user_obeys_suppressions_only() {
    let world = World::new("an_address_without_a_user").await;
    let mails = world
        .ledger(["ann@example.test", "bob@example.test"].map(LedgerRow::payout))
        .await;
    let stop = "INSERT INTO email_suppressions (email, reason, scope) VALUES ('bob@example.test', 'UNSUBSCRIBE', 'NON_ESSENTIAL')";
    world.execute(stop, &[]).await;
    tick(&world).await;
    is(&world.entry(&mails[0]).await, "SENT", None, 1);
    is(&world.entry(&mails[1]).await, "SUPPRESSED", "unsubscribe", 0);
}

#[tokio::test]
async fn who_does_not_want_to_be_tracked_gets_bulk_mail_by_the_lane_without_tracking() {
    let world = World::new("who_does_not_want_to_be_tracked").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    world.prefers(&ann, "tracking_enabled = false").await;
    let rows = [
        LedgerRow::digest("ann@example.test").of(&ann),
        LedgerRow::payout("ann@example.test").of(&ann),
        LedgerRow::digest("bob@example.test").of(&bob),
    ];
    world.ledger(rows).await;
    tick(&world).await;
    let lanes = |to: &str| {
        let mut lanes: Vec<_> = world
            .mailbox
            .sent_to(to)
            .into_iter()
            .map(|mail| mail.configuration_set)
            .collect();
        lanes.sort();
        lanes
    };
    assert_eq!(lanes("ann@example.test"), ["bulk-untracked", "transactional"]);
    assert_eq!(lanes("bob@example.test"), ["bulk"]);
}
