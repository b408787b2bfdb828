use serde_json::json;
use testkit::faults;

use crate::{JOB, date, day};

#[tokio::test]
async fn whatever_fails_a_back_fill_computes_its_week() {
    faults::everywhere("backfill_faults", async |world| {
        world.set("DATABASE_POOL_SIZE", "1");
        day(world, date("2025-10-13"), 5).await;

        world
            .deliver(
                JOB,
                [json!({"action": "backfill", "granularity": "weekly", "from": "2025-10-13", "to": "2025-10-19"})],
            )
            .await;

        let weeks = world.rows("SELECT total_views AS views FROM weekly_metrics").await;
        assert_eq!(weeks, [json!({"views": 5})]);
        assert_eq!(
            world
                .count("SELECT count(*) FROM metrics_aggregation_jobs_log WHERE status <> 'COMPLETED'")
                .await,
            0
        );
        assert_eq!(
            world
                .count("SELECT count(*) FROM job_runs WHERE status <> 'done'")
                .await,
            0
        );
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
