//! What becomes of the recipients of a campaign, and its counts.

use serde_json::json;
use testkit::World;
use testkit::people::LedgerRow;

use crate::{JOB, bounce, claim, complaint, delivery, event, open, sent, text, unsubscribe};

/// A campaign that is being sent. Answers the id.
pub async fn campaign(world: &World) -> String {
    sqlx::query_scalar(
        "WITH creator AS (INSERT INTO users (email, name) VALUES ('creator@example.test', 'Creator') RETURNING id)
         INSERT INTO email_campaigns (name, created_by, status, template, subject)
         SELECT 'News', id, 'SENDING', 'announcement', 'News' FROM creator RETURNING id",
    )
    .fetch_one(&world.db)
    .await
    .expect("a campaign")
}

/// A recipient whose mail SES has, counted as sent. Answers the mail.
pub async fn recipient(world: &World, campaign: &str, email: &str) -> String {
    let mail = sent(world, LedgerRow::campaign(email)).await;
    let of = "UPDATE email_messages SET campaign_id = $2 WHERE id = $1";
    world.execute(of, &[&mail, campaign]).await;
    let recipient =
        "INSERT INTO campaign_recipients (campaign_id, email, status, status_rank, sent_at, email_message_id)
                     VALUES ($2, $3, 'SENT', 10, now(), $1)";
    world.execute(recipient, &[&mail, campaign, email]).await;
    world.execute("UPDATE email_campaigns SET recipient_count = recipient_count + 1, sent_count = sent_count + 1 WHERE id = $1", &[campaign]).await;
    mail
}

/// The counts that events feed and that are not zero, by name.
pub async fn counts(world: &World) -> Vec<(&'static str, i32)> {
    let row: (i32, i32, i32, i32, i32, i32) = sqlx::query_as(
        "SELECT bounced_count, clicked_count, complained_count, delivered_count, opened_count, unsubscribed_count FROM email_campaigns",
    )
    .fetch_one(&world.db)
    .await
    .expect("one campaign");
    let named = [
        ("bounced", row.0),
        ("clicked", row.1),
        ("complained", row.2),
        ("delivered", row.3),
        ("opened", row.4),
        ("unsubscribed", row.5),
    ];
    named.into_iter().filter(|(_, count)| *count != 0).collect()
}

async fn statuses(world: &World) -> Vec<(String, String)> {
    sqlx::query_as("SELECT split_part(email, '@', 1), status FROM campaign_recipients ORDER BY email")
        .fetch_all(&world.db)
        .await
        .expect("recipients")
}

#[tokio::test]
async fn each_recipient_counts_once_and_ends_at_the_highest_whatever_the_order() {
    let addresses = ["a@example.test", "b@example.test", "c@example.test", "d@example.test"];
    for backwards in [false, true] {
        let world = World::new("each_recipient_counts_once").await;
        let campaign = campaign(&world).await;
        let mut mails = Vec::new();
        for address in addresses {
            mails.push(recipient(&world, &campaign, address).await);
        }
        let [a, b, c, d] = addresses;
        let claim = claim(&mails[2], c, None, "newsletters");
        let mut events = vec![
            delivery(&mails[0], a, "2025-10-20T09:00:02Z"),
            open(&mails[0], a, "2025-10-20T09:05:00Z"),
            delivery(&mails[1], b, "2025-10-20T09:00:02Z"),
            complaint(&mails[1], b, "abuse"),
            delivery(&mails[2], c, "2025-10-20T09:00:02Z"),
            unsubscribe(&claim),
            unsubscribe(&claim),
            bounce(&mails[3], d, "Transient", "General", "2025-10-20T09:00:05Z"),
        ];
        if backwards {
            events.reverse();
        }
        world.deliver(JOB, events).await;
        let expected = [
            ("a", "OPENED"),
            ("b", "COMPLAINED"),
            ("c", "UNSUBSCRIBED"),
            ("d", "BOUNCED"),
        ];
        assert_eq!(
            statuses(&world).await,
            expected.map(|(who, status)| (who.to_owned(), status.to_owned())),
            "{backwards}"
        );
        let expected = [
            ("bounced", 1),
            ("complained", 1),
            ("delivered", 3),
            ("opened", 1),
            ("unsubscribed", 1),
        ];
        assert_eq!(counts(&world).await, expected, "{backwards}");
    }
}

#[tokio::test]
async fn what_ses_rejects_was_not_sent_and_the_counts_still_add_up() {
    let world = World::new("what_ses_rejects").await;
    let campaign = campaign(&world).await;
    let counted = recipient(&world, &campaign, "a@example.test").await;
    let uncounted = recipient(&world, &campaign, "b@example.test").await;
    let queued =
        "UPDATE campaign_recipients SET status = 'QUEUED', status_rank = 0, sent_at = NULL WHERE email_message_id = $1";
    world.execute(queued, &[&uncounted]).await;
    world.execute("UPDATE email_campaigns SET sent_count = 1", &[]).await;
    let reject = |mail: &str, to: &str| event(mail, to, "Reject", "reject", json!({ "reason": "Bad content" }));
    world
        .deliver(
            JOB,
            [reject(&counted, "a@example.test"), reject(&uncounted, "b@example.test")],
        )
        .await;

    for mail in [&counted, &uncounted] {
        assert_eq!(
            world.entry(mail).await.verdict(),
            ("FAILED", Some("rejected: Bad content"))
        );
    }
    // The other is its campaign's to settle.
    assert_eq!(
        statuses(&world).await,
        [("a".into(), "FAILED".into()), ("b".into(), "QUEUED".into())]
    );
    let counts = "SELECT concat_ws(' ', sent_count, failed_count) FROM email_campaigns WHERE id = $1";
    assert_eq!(text(&world, counts, &campaign).await.as_deref(), Some("0 1"));
    // A delivery that SES tells late changes nothing.
    world
        .deliver(JOB, [delivery(&counted, "a@example.test", "2025-10-20T09:00:02Z")])
        .await;
    assert_eq!(world.entry(&counted).await.status, "FAILED");
    assert_eq!(statuses(&world).await[0].1, "FAILED");
}
