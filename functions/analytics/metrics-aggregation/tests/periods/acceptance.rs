use chrono::{Datelike, Days, Utc};
use serde_json::json;
use testkit::World;

use crate::{JOB, day, last_log, monthly, weekly};

#[tokio::test]
async fn a_week_with_three_silent_days_is_averaged_over_seven_and_compared_with_the_week_before() {
    let world = World::new("week").await;
    day(&world, "2025-09-29", 80).await;
    for (date, views) in [
        ("2025-10-06", 10),
        ("2025-10-07", 20),
        ("2025-10-09", 30),
        ("2025-10-10", 40),
        ("2025-10-13", 999),
    ] {
        day(&world, date, views).await;
    }
    weekly(&world, "2025-09-29").await;
    weekly(&world, "2025-10-06").await;
    let week = "SELECT * FROM weekly_metrics WHERE week_start_date = '2025-10-06'";
    let row = world.rows(week).await.remove(0);
    let expected = json!({
        "week_end_date": "2025-10-12", "total_views": 100, "avg_daily_views": 14.29, "days_in_period": 7, "days_with_data": 4,
        "views_growth_percent": 25.00, "clicks_growth_percent": 0.00, "unique_visitors": 4, "unique_visitors_estimated": true,
        "aggregation_version": "2.0", "project_id": null,
    });
    for (column, value) in expected.as_object().unwrap() {
        assert_eq!(&row[column], value, "{column}");
    }
    let log = last_log(&world).await;
    assert_eq!(
        (
            &log["period_end_date"],
            &log["status"],
            &log["records_processed"],
            &log["records_created"]
        ),
        (&json!("2025-10-12"), &json!("COMPLETED"), &json!(4), &json!(1))
    );
    assert!(log["duration_seconds"].is_number() && log["memory_used_mb"].as_i64() > Some(0));

    weekly(&world, "2025-10-06").await;
    assert_eq!(world.rows(week).await, [row], "a second time changes nothing");
    let log = last_log(&world).await;
    assert_eq!(
        (&log["records_created"], &log["records_updated"]),
        (&json!(0), &json!(1))
    );
}

#[tokio::test]
async fn three_runs_leave_one_row_for_what_has_no_project_and_no_license() {
    let world = World::new("nulls").await;
    day(&world, "2025-10-06", 10).await;
    for _ in 0..3 {
        weekly(&world, "2025-10-06").await;
        monthly(&world, "2025-10-01").await;
    }
    assert_eq!(world.count("SELECT count(*) FROM weekly_metrics").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM monthly_metrics").await, 1);
}

#[tokio::test]
async fn the_weeks_of_a_month_are_clipped_and_add_up_to_it() {
    let world = World::new("month").await;
    for date in 1..=31 {
        day(&world, &format!("2025-10-{date:02}"), 10).await;
    }
    day(&world, "2025-11-01", 999).await;
    monthly(&world, "2025-10-01").await;
    let row = world.rows("SELECT * FROM monthly_metrics").await.remove(0);
    assert_eq!(
        (&row["year"], &row["month"], &row["total_views"], &row["weeks_in_month"]),
        (&json!(2025), &json!(10), &json!(310), &json!(5))
    );
    assert_eq!(
        (&row["days_in_period"], &row["days_with_data"], &row["avg_daily_views"]),
        (&json!(31), &json!(31), &json!(10.00))
    );
    let weeks = row["weekly_breakdown"].as_array().unwrap();
    let views: Vec<_> = weeks.iter().map(|week| week["views"].as_i64().unwrap()).collect();
    assert_eq!(views, [50, 70, 70, 70, 50]);
    let first = json!({"weekStart": "2025-10-01", "weekEnd": "2025-10-05", "views": 50, "clicks": 0, "conversions": 0, "revenueCents": 0});
    assert_eq!(weeks[0], first);
}

#[tokio::test]
async fn a_scheduled_run_works_for_the_week_and_month_before_its_slot() {
    let world = World::new("scheduled").await;
    let slot = |name: &str, kind: &str, as_of: &str| json!({"jobType": kind, "asOf": as_of, "schedule": name});
    world
        .deliver(
            JOB,
            [
                slot("weekly", "weekly", "2025-10-20T04:00:00Z"),
                slot("weekly", "weekly", "2025-10-27T04:00:00Z"),
                slot("monthly", "monthly", "2025-11-02T05:00:00Z"),
            ],
        )
        .await;
    let periods = world
        .rows("SELECT job_type, period_start_date AS start, period_end_date AS end, trigger FROM metrics_aggregation_jobs_log ORDER BY 2")
        .await;
    let period = |kind: &str, start: &str, end: &str| json!({"job_type": kind, "start": start, "end": end, "trigger": "schedule"});
    assert_eq!(
        periods,
        [
            period("monthly", "2025-10-01", "2025-10-31"),
            period("weekly", "2025-10-13", "2025-10-19"),
            period("weekly", "2025-10-20", "2025-10-26"),
        ]
    );
}

#[tokio::test]
async fn what_is_no_closed_period_is_dead_with_the_reason() {
    let world = World::new("no_period").await;
    let today = Utc::now().date_naive();
    let monday = today
        .checked_sub_days(Days::new(today.weekday().num_days_from_monday().into()))
        .unwrap();
    let bad = [
        (
            json!({"jobType": "weekly", "periodStart": "2025-10-07"}),
            "2025-10-07 is a Tue, not a Monday".to_owned(),
        ),
        (
            json!({"jobType": "monthly", "periodStart": "2025-10-02"}),
            "2025-10-02 is not the first of a month".to_owned(),
        ),
        (
            json!({"jobType": "weekly", "periodStart": monday}),
            format!("the week of {monday} is not over"),
        ),
        (json!({"jobType": "yearly"}), "unknown variant `yearly`".to_owned()),
        (json!({}), "missing field `jobType`".to_owned()),
    ];
    world.refuses(JOB, &bad).await;
}

#[tokio::test]
async fn a_period_without_days_is_complete_and_keeps_no_rows() {
    let world = World::new("empty").await;
    day(&world, "2025-10-06", 10).await;
    weekly(&world, "2025-10-06").await;
    world.execute("DELETE FROM daily_metrics", &[]).await;
    weekly(&world, "2025-10-06").await;
    assert_eq!(world.count("SELECT count(*) FROM weekly_metrics").await, 0);
    let log = last_log(&world).await;
    assert_eq!(
        (&log["status"], &log["records_deleted"]),
        (&json!("COMPLETED"), &json!(1))
    );
}

#[tokio::test]
async fn growth_is_null_without_a_past_a_hundred_from_zero_and_clamped() {
    let world = World::new("growth").await;
    world
        .execute(
            "INSERT INTO daily_metrics (date, ip_asset_id, views, revenue_cents)
             VALUES ('2025-09-29', 'zero', 0, 0), ('2025-09-29', 'one', 1, 1), ('2025-10-06', 'zero', 5, 0), ('2025-10-06', 'one', 0, 99999999999),
                    ('2025-10-06', 'new', 5, 5)",
            &[],
        )
        .await;
    weekly(&world, "2025-09-29").await;
    weekly(&world, "2025-10-06").await;
    let growth = world
        .rows("SELECT ip_asset_id AS id, views_growth_percent AS views, revenue_growth_percent AS revenue FROM weekly_metrics WHERE week_start_date = '2025-10-06' ORDER BY 1")
        .await;
    assert_eq!(
        growth,
        [
            json!({"id": "new", "views": null, "revenue": null}),
            json!({"id": "one", "views": -100.00, "revenue": 99_999_999.99}),
            json!({"id": "zero", "views": 100.00, "revenue": 0.00}),
        ]
    );
}

#[tokio::test]
async fn visitors_of_a_week_that_is_not_frozen_are_counted_and_not_added_up() {
    let world = World::new("visitors").await;
    let today = Utc::now().date_naive();
    let monday = today
        .checked_sub_days(Days::new(u64::from(today.weekday().num_days_from_monday()) + 7))
        .unwrap();
    for days in 0..7 {
        let date = monday.checked_add_days(Days::new(days)).unwrap();
        world
            .events(json!([{"occurred_at": format!("{date}T12:00:00Z"), "actor_id": "ann", "ip_asset_id": "ast_1"}]))
            .await;
        day(&world, &date.to_string(), 1).await;
    }
    world.deliver(JOB, [json!({"jobType": "weekly"})]).await;
    let rows = world
        .rows("SELECT total_views, unique_visitors, unique_visitors_estimated FROM weekly_metrics")
        .await;
    assert_eq!(
        rows,
        [json!({"total_views": 7, "unique_visitors": 1, "unique_visitors_estimated": false})]
    );
    // None of its days has been computed by the daily aggregation: it is asked for them, and the week comes again.
    assert_eq!(world.queued("analytics-aggregate").len(), 7);
    assert_eq!(last_log(&world).await["status"], "PARTIAL");
    assert_eq!(
        world.rows("SELECT period_start FROM metrics_dirty_periods").await,
        [json!({"period_start": monday})]
    );
    world.drain("analytics-aggregate").await;
    world.deliver(JOB, [json!({"jobType": "weekly"})]).await;
    assert_eq!(last_log(&world).await["status"], "COMPLETED");
    assert_eq!(
        world
            .count("SELECT count(*) FROM metrics_dirty_periods WHERE granularity = 'week'")
            .await,
        0
    );
}

#[tokio::test]
async fn the_same_period_twice_at_once_is_computed_one_after_the_other() {
    let world = World::new("twice_at_once").await;
    world.scale(JOB, 2);
    day(&world, "2025-10-06", 10).await;
    let message = || json!({"jobType": "weekly", "periodStart": "2025-10-06"});
    world.deliver(JOB, [message(), message(), message()]).await;
    assert_eq!(world.count("SELECT count(*) FROM weekly_metrics").await, 1);
    assert_eq!(
        world
            .count("SELECT count(*) FROM metrics_aggregation_jobs_log WHERE status = 'COMPLETED'")
            .await,
        3
    );
    assert_eq!(world.dead_letters(JOB), []);
}
