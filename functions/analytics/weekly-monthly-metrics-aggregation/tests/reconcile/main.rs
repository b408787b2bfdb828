//! `weekly-monthly-metrics-aggregation` (spec: business, section 3), the built function on a real database.

mod acceptance;
mod faults;
mod property;

use chrono::{Datelike, Days, NaiveDate, Utc};
use serde_json::{Value, json};
use testkit::World;

const JOB: &str = "weekly-monthly-metrics-aggregation";
const AGGREGATE: &str = "analytics-aggregate";
const ROLL_UP: &str = "metrics-aggregation";

/// The Monday of the week before this one.
fn last_monday() -> NaiveDate {
    let today = Utc::now().date_naive();
    today
        .checked_sub_days(Days::new(u64::from(today.weekday().num_days_from_monday()) + 7))
        .expect("a date")
}

async fn day(world: &World, date: NaiveDate, views: i32) {
    world
        .execute(
            "INSERT INTO daily_metrics (date, ip_asset_id, views) VALUES ($1::text::date, 'ast_1', $2::text::int)",
            &[&date.to_string(), &views.to_string()],
        )
        .await;
}

fn date(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

async fn reconcile(world: &World) {
    world.deliver(JOB, [json!({"action": "reconcile"})]).await;
}

async fn last_log(world: &World) -> Value {
    let sql =
        "SELECT * FROM metrics_aggregation_jobs_log WHERE job_type = 'reconcile' ORDER BY started_at DESC LIMIT 1";
    world.rows(sql).await.remove(0)
}
