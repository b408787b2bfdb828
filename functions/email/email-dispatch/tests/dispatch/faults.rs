//! Every fault at every call.

use testkit::people::{LedgerRow, Notification};
use testkit::{World, faults};

use crate::{DELIVERY, JOB, tick};

/// Lets leases end and mail in doubt be sent once more or given up, until nothing is on its way.
async fn settle(world: &World) {
    let moving = "SELECT count(*) FROM email_messages WHERE status IN ('PENDING', 'SENDING') OR (status = 'UNCERTAIN' AND to_email NOT LIKE 'bob%')";
    for minutes in [3, 20, 61, 61] {
        if world.count(moving).await > 0 {
            world.advance_minutes(minutes).await;
            tick(world).await;
        }
    }
    assert_eq!(world.count(moving).await, 0);
}

#[tokio::test]
async fn due_lost_and_recurring_mail_is_settled_whatever_fails() {
    let report = faults::everywhere("due_lost_and_recurring_mail", async |world| {
        let ann = world.user("Ann").await;
        world.notification(&ann, Notification::default()).await;
        world.advance_minutes(6).await;
        let mails = world.ledger(["ann@example.test", "bob@example.test"].map(LedgerRow::payout)).await;
        let claimed = "UPDATE email_messages SET status = 'SENDING', attempts = 1, lease_until = now() - interval '1 second' WHERE id = $1";
        world.execute(claimed, &[&mails[1]]).await;
        let recurring = "INSERT INTO scheduled_emails (to_email, template, variables, scheduled_send_time, recurrence)
                         VALUES ('cid@example.test', 'password-reset', '{\"reset_url\": \"/reset\", \"expires_in_hours\": 1}', now(), 'weekly')";
        world.execute(recurring, &[]).await;

        tick(world).await;
        settle(world).await;

        let to = |name: &str| world.mailbox.sent_to(&format!("{name}@example.test")).len();
        match world.entry(&mails[0]).await.verdict() {
            ("SENT", None) => assert_eq!(to("ann"), 1),
            ("FAILED", Some("unconfirmed")) => assert!(to("ann") <= 1),
            other => panic!("{other:?}"),
        }
        // Nobody knows whether it had left.
        assert!(matches!(&*world.entry(&mails[1]).await.status, "UNCERTAIN" | "FAILED"));
        assert_eq!(to("bob"), 0);
        assert_eq!(world.count("SELECT count(*) FROM email_messages WHERE dedup_key LIKE 'scheduled:%' AND status = 'SENT'").await, 1);
        assert_eq!(world.count("SELECT next_occurrence::bigint FROM scheduled_emails").await, 1);
        // A doubled password reset is better than a lost one, but only where it was in doubt.
        let in_doubt = world.count("SELECT count(*) FROM email_messages WHERE resent_at IS NOT NULL").await;
        assert!((1..=1 + in_doubt as usize).contains(&to("cid")));
        // The notification's message was sent, or waits for the relay.
        let waiting = world.count("SELECT count(*) FROM outbox").await;
        assert!(waiting + world.queued(DELIVERY).len() as i64 >= 1);
        assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE status <> 'done'").await, 0);
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
    let what = |part: &str| report.calls.iter().any(|call| call.what.contains(part));
    assert!(
        what("outbound-emails") && what("SendMessageBatch"),
        "{:?}",
        report.calls
    );
}
