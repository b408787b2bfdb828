use serde_json::json;
use testkit::faults;

use crate::{JOB, day, weekly};

#[tokio::test]
async fn whatever_fails_a_week_says_what_its_days_say_and_one_statement_writes_it() {
    let report = faults::everywhere("week_faults", async |world| {
        world.set("DATABASE_POOL_SIZE", "1");
        world
            .execute(
                "INSERT INTO daily_metrics (date, ip_asset_id, views) SELECT '2025-10-06', 'ast_' || i, i FROM generate_series(1, 100) i",
                &[],
            )
            .await;
        day(world, "2025-10-12", 7).await;

        weekly(world, "2025-10-06").await;

        let sums = world.rows("SELECT count(*), sum(total_views) AS views FROM weekly_metrics").await;
        assert_eq!(sums, [json!({"count": 100, "views": 5057})]);
        assert_eq!(world.count("SELECT count(*) FROM metrics_aggregation_jobs_log WHERE status = 'COMPLETED'").await, 1);
        assert_eq!(world.count("SELECT count(*) FROM metrics_aggregation_jobs_log").await, 1);
        assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await, 1);
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
    // A hundred assets take as many statements as one.
    assert!(report.calls.len() < 20, "{:?}", report.calls);
}
