//! Every fault at every call.

use testkit::people::LedgerRow;
use testkit::{World, faults};

use crate::campaigns::{campaign, counts, recipient};
use crate::{JOB, bounce, claim, click, complaint, open, send, sent, unsubscribe};

#[tokio::test]
async fn a_batch_of_everything_has_its_effects_once_whatever_fails_and_costs_few_statements() {
    let report = faults::everywhere("a_batch_of_everything", async |world: &World| {
        let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
        let campaign = campaign(world).await;
        let [a, b, s] = ["ann@example.test", "bob@example.test", "soft@example.test"];
        let news = recipient(world, &campaign, "news@example.test").await;
        let complained = sent(world, LedgerRow::payout(a).of(&ann)).await;
        let left = sent(world, LedgerRow::payout(b).of(&bob)).await;
        let mut events = vec![
            send(&news, "news@example.test"),
            open(&news, "news@example.test", "2025-10-20T09:05:00Z"),
            click(&news, "news@example.test", "2025-10-20T09:06:00Z"),
            complaint(&complained, a, "abuse"),
            unsubscribe(&claim(&left, b, Some(&bob), "payouts")),
        ];
        for day in 10..13 {
            let mail = sent(world, LedgerRow::payout(s)).await;
            events.push(bounce(
                &mail,
                s,
                "Transient",
                "General",
                &format!("2025-10-{day}T09:00:05Z"),
            ));
        }
        world.deliver(JOB, events).await;

        assert_eq!(world.count("SELECT count(*) FROM email_events").await, 7);
        assert_eq!(counts(world).await, [("clicked", 1), ("opened", 1)]);
        assert_eq!(world.count("SELECT count(*) FROM email_campaign_clicks").await, 1);
        assert_eq!(world.count("SELECT count(*) FROM email_suppressions").await, 2);
        assert_eq!(
            world
                .count("SELECT count(*) FROM email_preferences WHERE NOT payouts")
                .await,
            2
        );
        assert_eq!(world.count("SELECT count(*) FROM email_unsubscribe_log").await, 2);
        let engaged =
            "SELECT count(*) FROM email_engagements WHERE (sent_count, unique_open_count, click_count) = (1, 1, 1)";
        assert_eq!(world.count(engaged).await, 1);
        assert_eq!(
            world
                .count("SELECT count(*) FROM job_runs WHERE status <> 'done'")
                .await,
            0
        );
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
    // Begin, commit and the ledger's two included: however many messages there are, two more when addresses are on the list already.
    let statements: Vec<_> = report
        .calls
        .iter()
        .filter(|call| call.has_effect())
        .map(|call| &call.what)
        .collect();
    assert!(statements.len() <= 18, "{statements:#?}");
}
