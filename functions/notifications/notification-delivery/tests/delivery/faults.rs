//! Every fault at every call.

use serde_json::json;
use testkit::people::Notification;
use testkit::{World, faults};

use crate::{DISPATCH, JOB, deliver};

/// Lets leases end and mail in doubt be given up, until nothing is on its way.
async fn settle(world: &World) {
    let moving = "SELECT count(*) FROM email_messages WHERE status IN ('PENDING', 'SENDING', 'UNCERTAIN')";
    for minutes in [3, 61, 61] {
        if world.count(moving).await > 0 {
            world.advance_minutes(minutes).await;
            world.deliver(DISPATCH, [json!({})]).await;
        }
    }
    assert_eq!(world.count(moving).await, 0);
}

#[tokio::test]
async fn a_batch_of_three_notifications_is_delivered_whatever_fails() {
    let report = faults::everywhere("a_batch_of_three", async |world| {
        let (ann, bob, cid) = (
            world.user("Ann").await,
            world.user("Bob").await,
            world.user("Cid").await,
        );
        world.prefers(&bob, "digest_frequency = 'DAILY'").await;
        world.prefers(&cid, "license_expiry = false").await;
        let mut ids = Vec::new();
        for user in [&ann, &bob, &cid] {
            ids.push(world.notification(user, Notification::default()).await);
        }

        deliver(world, &ids).await;
        settle(world).await;

        let mails = world.mailbox.sent_to("ann@example.test").len();
        assert_eq!(world.mailbox.accepted(), mails);
        match &*world.email_state(&ids[0]).await.0 {
            "SENT" => assert_eq!(mails, 1),
            // In doubt until it was given up: one or none, never two.
            "FAILED" => {
                assert!(mails <= 1);
                assert_eq!(world.entry_of(&ids[0]).await.verdict(), ("FAILED", Some("unconfirmed")));
            }
            other => panic!("left in {other}"),
        }
        assert_eq!(world.email_state(&ids[1]).await.0, "DIGEST");
        assert_eq!(world.email_state(&ids[2]).await.0, "SKIPPED");
        assert_eq!(
            world
                .count("SELECT count(*) FROM notifications WHERE in_app_at IS NULL")
                .await,
            0
        );
        assert_eq!(
            world
                .count("SELECT count(*) FROM job_runs WHERE status NOT IN ('done', 'skipped')")
                .await,
            0
        );
        assert_eq!(world.count("SELECT count(*) FROM outbox").await, 0);
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
    assert!(report.calls.iter().any(|call| call.what.contains("outbound-emails")));
}
