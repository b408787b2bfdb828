//! `metrics-aggregation` (spec: business, section 3), the built function on a real database.

mod acceptance;
mod faults;
mod plans;

use serde_json::{Value, json};
use testkit::World;

const JOB: &str = "metrics-aggregation";

/// One daily row of an asset.
async fn day(world: &World, date: &str, views: i32) {
    world
        .execute(
            "INSERT INTO daily_metrics (date, ip_asset_id, views, unique_visitors) VALUES ($1::text::date, 'ast_1', $2::text::int, 1)",
            &[date, &views.to_string()],
        )
        .await;
}

async fn weekly(world: &World, start: &str) {
    world
        .deliver(JOB, [json!({"jobType": "weekly", "periodStart": start})])
        .await;
}

async fn monthly(world: &World, start: &str) {
    world
        .deliver(JOB, [json!({"jobType": "monthly", "periodStart": start})])
        .await;
}

async fn last_log(world: &World) -> Value {
    world
        .rows("SELECT * FROM metrics_aggregation_jobs_log ORDER BY started_at DESC LIMIT 1")
        .await
        .remove(0)
}
