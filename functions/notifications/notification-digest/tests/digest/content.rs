//! Which notifications a digest carries, and how it shows them.

use testkit::World;

use crate::{MONDAY, deliveries, delivery, notify, subscriber, tick};

const AT: &str = "2025-10-20T08:00:00Z";

#[tokio::test]
async fn what_the_user_switched_off_or_somebody_else_mails_stays_out() {
    let world = World::new("what_the_user_switched_off_stays_out").await;
    let ann = subscriber(
        &world,
        "Ann",
        "digest_frequency = 'DAILY', license_expiry = false, announcements = false",
    )
    .await;
    let change = async |id: &str, set: &str| {
        world
            .execute(&format!("UPDATE notifications SET {set} WHERE id = $1"), &[id])
            .await
    };
    let notification = async |kind: &str, priority: &str, set: &str| {
        let id = notify(&world, &ann, kind, priority, AT).await;
        if !set.is_empty() {
            change(&id, set).await;
        }
        id
    };
    let channel = "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled) VALUES ($1, 'PROJECT', 'EMAIL', false), ($1, 'PAYOUT', 'IN_APP', false)";
    world.execute(channel, &[&ann]).await;
    let out = [
        notification("LICENSE", "MEDIUM", "").await,
        notification("SYSTEM", "MEDIUM", "").await,
        notification("PROJECT", "MEDIUM", "").await,
        notification("PAYOUT", "HIGH", "").await,
        notification("PAYOUT", "MEDIUM", "email_state = 'QUEUED'").await,
        notification("PAYOUT", "MEDIUM", "email_state = 'SKIPPED'").await,
        notification("PAYOUT", "MEDIUM", "email_policy = 'NONE'").await,
        notification(
            "PAYOUT",
            "URGENT",
            "email_state = 'FAILED', email_state_reason = 'unconfirmed'",
        )
        .await,
        notification("PAYOUT", "MEDIUM", "created_at = '2025-10-19T08:59:59Z'").await,
        notification("PAYOUT", "MEDIUM", "created_at = '2025-10-20T09:00:01Z'").await,
    ];
    let carried = [
        notification("SYSTEM", "LOW", "metadata = '{\"category\": \"SECURITY\"}'").await,
        notification("PAYOUT", "MEDIUM", "email_state = 'PENDING'").await,
        notification(
            "ROYALTY",
            "URGENT",
            "email_state = 'FAILED', email_state_reason = 'MessageRejected'",
        )
        .await,
        notification("BLOG", "LOW", "").await,
        notification("PAYOUT", "MEDIUM", "created_at = '2025-10-20T09:00:00Z'").await,
    ];
    tick(&world, MONDAY).await;

    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "SENT", 5)]);
    for id in carried {
        assert_eq!(world.email_state(&id).await.0, "DIGESTED");
    }
    for id in out {
        assert_ne!(world.email_state(&id).await.0, "DIGESTED");
    }
}

#[tokio::test]
async fn sections_come_in_their_order_and_fifty_lines_are_shown() {
    let world = World::new("sections_come_in_their_order").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    let kinds = [
        "BLOG",
        "POST_STATUS_CHANGED",
        "POST_ASSIGNED",
        "SYSTEM",
        "PROJECT",
        "LICENSE",
        "ROYALTY",
        "PAYOUT",
    ];
    let many = "INSERT INTO notifications (user_id, type, title, message, email_state, created_at)
                SELECT $1, kind, '<b>' || kind || '</b>', repeat('é', 201), 'DIGEST', '2025-10-20T08:00:00Z' FROM unnest($2::text[]) kind, generate_series(1, 12)";
    world.execute(many, &[&ann, &format!("{{{}}}", kinds.join(","))]).await;
    tick(&world, MONDAY).await;

    let mail = &world.mailbox.sent_to("ann@example.test")[0];
    assert_eq!(mail.subject, "You have 96 unread notifications");
    let labels = [
        "PAYOUTS (12)",
        "ROYALTIES (12)",
        "LICENSES (12)",
        "PROJECTS (12)",
        "ANNOUNCEMENTS (12)",
        "POSTS ASSIGNED TO YOU (12)",
        "YOUR POSTS (12)",
        "BLOG (12)",
    ];
    let places = labels.map(|label| {
        mail.text
            .find(label)
            .unwrap_or_else(|| panic!("{label}: {}", mail.text))
    });
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(mail.text.matches(&"é".repeat(200)).count(), 50);
    assert!(!mail.text.contains(&"é".repeat(201)));
    assert_eq!(
        (
            mail.text.matches("and 2 more").count(),
            mail.text.matches("and 12 more").count()
        ),
        (5, 3)
    );
    assert!(!mail.html.contains("<b>PAYOUT") && mail.html.contains("&#60;b&#62;PAYOUT"));
}

#[tokio::test]
async fn every_digest_can_be_unsubscribed_from() {
    let world = World::new("every_digest_can_be_unsubscribed_from").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    notify(&world, &ann, "LICENSE", "LOW", AT).await;
    tick(&world, MONDAY).await;

    let mail = &world.mailbox.sent_to("ann@example.test")[0];
    assert_eq!(mail.headers["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click");
    let link = mail.headers["List-Unsubscribe"].trim_matches(['<', '>']).to_owned();
    assert!(mail.text.contains(&link) && mail.html.contains(&link));
    assert_eq!(
        (&*mail.tags["stream"], &*mail.tags["category"], &*mail.configuration_set),
        ("DIGEST", "digest", "bulk")
    );
}
