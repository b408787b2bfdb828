use serde_json::json;
use testkit::faults;

use crate::{JOB, ago, at, days};

#[tokio::test]
async fn whatever_fails_hours_and_days_say_what_the_events_say() {
    faults::everywhere("hours_and_days", async |world| {
        // Then the same calls are made in the same order every time.
        world.set("DATABASE_POOL_SIZE", "1");
        let day = ago(1);
        world
            .events(json!([
                {"occurred_at": at(day, "12:00:00"), "actor_id": "ann", "ip_asset_id": "ast_1"},
                {"occurred_at": at(day, "12:00:00"), "actor_id": "ann", "ip_asset_id": "ast_1"},
                {"occurred_at": at(day, "12:00:10"), "actor_id": "bob", "ip_asset_id": "ast_1", "props": {"revenueCents": 3}},
            ]))
            .await;
        world.deliver(JOB, [json!({"action": "hourly"})]).await;
        // What a crash left in the outbox.
        while world.count("SELECT count(*) FROM outbox").await > 0 {
            world.advance_minutes(1).await;
            world.deliver("outbox-relay", [json!({})]).await;
            world.drain(JOB).await;
        }

        let rows = days(world).await;
        let row = |date| rows.iter().find(|row| row["date"] == json!(date));
        let row = row(day).unwrap_or_else(|| panic!("{rows:?}"));
        assert_eq!((&row["views"], &row["revenue_cents"], &row["unique_visitors"]), (&json!(2), &json!(3), &json!(2)));
        assert_eq!(rows.len(), 1);
        // Time may have moved by half an hour, and whole hours with it: those cannot be looked at any more.
        let hours = "SELECT coalesce(sum(views), 2)::bigint FROM hourly_metrics WHERE hour = date_trunc('hour', hour)";
        assert_eq!(world.count(hours).await, 2);
        assert_eq!(world.count("SELECT count(*) FROM metrics_aggregation_jobs_log WHERE status = 'RUNNING'").await, 0);
        assert_eq!(world.count("SELECT count(*) FROM metrics_dirty_periods WHERE granularity = 'day'").await, 0);
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
