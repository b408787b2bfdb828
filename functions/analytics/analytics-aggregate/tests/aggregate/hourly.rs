use chrono::{Datelike, TimeDelta, Utc};
use serde_json::json;
use testkit::World;

use crate::{JOB, ago, at, days, hourly, last_log};

#[tokio::test]
async fn an_event_of_yesterday_that_comes_today_corrects_yesterday_with_the_next_hourly_run() {
    let world = World::new("late").await;
    let day = ago(1);
    world
        .events(json!([{"occurred_at": at(day, "12:00:00"), "actor_id": "ann", "ip_asset_id": "ast_1"}]))
        .await;
    hourly(&world).await;
    assert_eq!(days(&world).await[0]["views"], 1);
    world
        .events(json!([{"occurred_at": at(day, "12:30:00"), "actor_id": "bob", "ip_asset_id": "ast_1"}]))
        .await;
    hourly(&world).await;
    assert_eq!(
        (
            &days(&world).await[0]["views"],
            &days(&world).await[0]["unique_visitors"]
        ),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        world.rows("SELECT views FROM hourly_metrics").await,
        [json!({"views": 2})]
    );
    let marks = world
        .rows("SELECT granularity FROM metrics_dirty_periods WHERE granularity = 'day'")
        .await;
    assert!(marks.is_empty(), "the day was computed after its mark: {marks:?}");
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_late_event_marks_its_closed_week_and_month() {
    let world = World::new("late_week").await;
    let day = ago(60);
    world
        .events(json!([{"occurred_at": at(day, "12:00:00"), "ip_asset_id": "ast_1"}]))
        .await;
    hourly(&world).await;
    let marks = world
        .rows("SELECT granularity, period_start FROM metrics_dirty_periods ORDER BY 1")
        .await;
    let monday = day - TimeDelta::days(day.weekday().num_days_from_monday().into());
    let expected = [
        json!({"granularity": "month", "period_start": day.with_day(1).unwrap()}),
        json!({"granularity": "week", "period_start": monday}),
    ];
    assert_eq!(marks, expected);
}

#[tokio::test]
async fn an_event_that_is_enriched_late_makes_its_day_new_again() {
    let world = World::new("enriched_late").await;
    let day = ago(2);
    let received = (Utc::now() - TimeDelta::hours(30)).to_rfc3339();
    world
        .events(json!([{"id": "e", "occurred_at": at(day, "12:00:00"), "created_at": received, "license_id": "lic_1"}]))
        .await;
    hourly(&world).await;
    world
        .execute(
            "UPDATE events SET ip_asset_id = 'ast_1', project_id = 'prj_1', enriched_at = now()",
            &[],
        )
        .await;
    hourly(&world).await;
    let rows = days(&world).await;
    assert_eq!(
        (rows.len(), &rows[0]["ip_asset_id"], &rows[0]["project_id"]),
        (1, &json!("ast_1"), &json!("prj_1"))
    );
}

#[tokio::test]
async fn frozen_days_and_days_to_come_are_left_alone_and_counted() {
    let world = World::new("far").await;
    let ahead = (Utc::now() + TimeDelta::days(30)).to_rfc3339();
    world
        .events(json!([
            {"occurred_at": at(ago(100), "12:00:00"), "ip_asset_id": "ast_1"},
            {"occurred_at": ahead, "ip_asset_id": "ast_1"},
            {"occurred_at": at(ago(1), "12:00:00"), "ip_asset_id": "ast_1"},
        ]))
        .await;
    hourly(&world).await;
    assert_eq!(days(&world).await.len(), 1);
    assert_eq!(
        last_log(&world, "hourly").await["metadata"],
        json!({"hours": 1, "days": 1, "frozen": 1})
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn more_hours_than_fit_are_done_by_the_next_message() {
    let world = World::new("many_hours").await;
    world
        .execute(
            "INSERT INTO events (occurred_at, event_type, ip_asset_id)
             SELECT date_trunc('hour', now(), 'UTC') - i * interval '1 hour', 'asset_viewed', 'ast_1' FROM generate_series(1, 250) i",
            &[],
        )
        .await;
    hourly(&world).await;
    assert_eq!(world.count("SELECT count(*) FROM hourly_metrics").await, 250);
    assert_eq!(world.count("SELECT sum(views)::bigint FROM daily_metrics").await, 250);
    let links = world
        .count("SELECT count(*) FROM job_runs WHERE report ? 'hours' OR status = 'continued'")
        .await;
    assert_eq!(links, 2);
    let watermark = world.count("SELECT count(*) FROM aggregation_watermarks w, job_runs r WHERE r.status = 'continued' AND w.value BETWEEN r.started_at AND r.finished_at").await;
    assert_eq!(watermark, 1, "it says when the first of them began");
}

#[tokio::test]
async fn todays_events_are_counted_live_by_type() {
    let world = World::new("live").await;
    let now = Utc::now();
    world
        .events(json!([
            {"occurred_at": now.to_rfc3339(), "actor_id": "ann", "ip_asset_id": "ast_1"},
            {"occurred_at": now.to_rfc3339(), "actor_id": "bob", "ip_asset_id": "ast_1"},
        ]))
        .await;
    world
        .execute(
            "INSERT INTO realtime_metrics_cache (metric_key, metric_type, current_value, expires_at)
             VALUES ('events:asset_viewed:today', 'COUNTER', 9, now() - interval '1 hour'), ('gone', 'GAUGE', 1, now())",
            &[],
        )
        .await;
    hourly(&world).await;
    let cache = world
        .rows("SELECT metric_key, current_value::int, previous_value FROM realtime_metrics_cache")
        .await;
    assert_eq!(
        cache,
        [json!({"metric_key": "events:asset_viewed:today", "current_value": 2, "previous_value": null})]
    );
}

#[tokio::test]
async fn old_hours_go_at_three_in_the_morning() {
    let world = World::new("old_hours").await;
    world
        .execute(
            "INSERT INTO hourly_metrics (hour, ip_asset_id) SELECT now() - days * interval '1 day', 'ast_1' FROM unnest(ARRAY[34, 36]) days",
            &[],
        )
        .await;
    let message = |hour: &str| json!({"action": "hourly", "asOf": at(ago(1), hour)});
    world.deliver(JOB, [message("02:05:00")]).await;
    assert_eq!(world.count("SELECT count(*) FROM hourly_metrics").await, 2);
    world.deliver(JOB, [message("03:05:00")]).await;
    assert_eq!(world.count("SELECT count(*) FROM hourly_metrics").await, 1);
}

#[tokio::test]
async fn given_hours_are_computed_though_there_is_no_news_of_them() {
    let world = World::new("given_hours").await;
    let day = ago(3);
    world
        .events(json!([{"occurred_at": at(day, "12:10:00"), "ip_asset_id": "ast_1"}]))
        .await;
    hourly(&world).await;
    world.execute("DELETE FROM hourly_metrics", &[]).await;
    world
        .execute("UPDATE events SET created_at = created_at - interval '1 day'", &[])
        .await;
    hourly(&world).await;
    assert_eq!(world.count("SELECT count(*) FROM hourly_metrics").await, 0);
    world
        .deliver(
            JOB,
            [json!({"action": "hourly", "from": at(day, "10:00:00"), "to": at(day, "13:00:00")})],
        )
        .await;
    assert_eq!(world.count("SELECT count(*) FROM hourly_metrics").await, 1);
}
