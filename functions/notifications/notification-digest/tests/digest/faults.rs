//! Every fault at every call.

use serde_json::json;
use testkit::people::Notification;
use testkit::{World, faults};

use crate::{DISPATCH, JOB, subscriber};

/// Lets leases end and mail in doubt be given up, until nothing is on its way.
async fn settle(world: &World) {
    let moving = "SELECT (SELECT count(*) FROM email_messages WHERE status IN ('PENDING', 'SENDING', 'UNCERTAIN'))
                       + (SELECT count(*) FROM digest_deliveries WHERE status = 'ENQUEUED')";
    for minutes in [3, 61, 61] {
        if world.count(moving).await > 0 {
            world.advance_minutes(minutes).await;
            world.deliver(DISPATCH, [json!({})]).await;
        }
    }
    assert_eq!(world.count(moving).await, 0);
}

#[tokio::test]
async fn three_users_get_their_digests_whatever_fails() {
    let report = faults::everywhere("three_users_get_their_digests", async |world| {
        // By the real clock: what a crash leaves is sent by another function, later.
        let daily = "digest_frequency = 'DAILY', digest_hour = extract(hour FROM now())";
        let ann = subscriber(world, "Ann", daily).await;
        let bob = subscriber(world, "Bob", daily).await;
        subscriber(world, "Cid", daily).await;
        for user in [&ann, &ann, &bob] {
            world.notification(user, Notification::default()).await;
        }

        world.deliver(JOB, [json!({ "frequency": "ALL" })]).await;
        settle(world).await;

        // Nobody is forgotten, and nobody gets two.
        let ended = "SELECT count(*) FROM digest_deliveries WHERE status = CASE item_count WHEN 0 THEN 'EMPTY' ELSE 'SENT' END";
        assert_eq!((world.count("SELECT count(*) FROM digest_deliveries").await, world.count(ended).await), (3, 3));
        assert_eq!(world.mailbox.doubled(), 0);
        let sent = world.count("SELECT count(*) FROM email_messages WHERE status = 'SENT'").await;
        let in_doubt = world.count("SELECT count(*) FROM email_messages WHERE status = 'FAILED' AND status_reason = 'unconfirmed'").await;
        assert_eq!(sent + in_doubt, 2);
        assert!((sent..=2).contains(&(world.mailbox.accepted() as i64)));
        assert_eq!(world.count("SELECT count(*) FROM notifications WHERE email_state = 'DIGESTED'").await, 3);
        assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 3);
        let moved = "SELECT count(*) FROM digest_states WHERE last_window_end IS NOT NULL AND (last_sent_at IS NULL) = (user_id = (SELECT id FROM users WHERE name = 'Cid'))";
        assert_eq!(world.count(moved).await, 3);
        assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE status <> 'done'").await, 0);
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
    assert!(report.calls.iter().any(|call| call.what.contains("outbound-emails")));
}
