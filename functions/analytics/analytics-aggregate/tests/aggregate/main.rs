//! `analytics-aggregate` (spec: business, section 3), the built function on a real database.
//!
//! Days are yesterday and before: a day that has not begun, or is frozen, is not computed, by the clock of the database.

mod daily;
mod faults;
mod hourly;
mod plans;
mod posts;

use chrono::{Days, NaiveDate, Utc};
use serde_json::{Value, json};
use testkit::World;

const JOB: &str = "analytics-aggregate";

/// So many days ago.
fn ago(days: u64) -> NaiveDate {
    Utc::now()
        .date_naive()
        .checked_sub_days(Days::new(days))
        .expect("a date")
}

/// A time of a day.
fn at(date: NaiveDate, time: &str) -> String {
    format!("{date}T{time}Z")
}

async fn daily(world: &World, date: NaiveDate) {
    world.deliver(JOB, [json!({"action": "daily", "date": date})]).await;
}

/// Hours, and the days that follow from them.
async fn hourly(world: &World) {
    world.deliver(JOB, [json!({"action": "hourly"})]).await;
}

async fn days(world: &World) -> Vec<Value> {
    world
        .rows(
            "SELECT date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time
             FROM daily_metrics ORDER BY 1, 2, 3, 4",
        )
        .await
}

async fn last_log(world: &World, job_type: &str) -> Value {
    let sql = format!(
        "SELECT * FROM metrics_aggregation_jobs_log WHERE job_type = '{job_type}' ORDER BY started_at DESC LIMIT 1"
    );
    world.rows(&sql).await.remove(0)
}
