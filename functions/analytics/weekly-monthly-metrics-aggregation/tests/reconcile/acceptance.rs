use chrono::Days;
use serde_json::json;
use testkit::World;

use crate::{AGGREGATE, JOB, ROLL_UP, date, day, last_log, last_monday, reconcile};

const WEEKS: &str = "SELECT week_start_date AS week, total_views AS views FROM weekly_metrics ORDER BY 1";
/// All of both tables, to see whether anything was so much as touched.
const ALL: &str =
    "SELECT to_jsonb(w) AS row FROM weekly_metrics w UNION ALL SELECT to_jsonb(m) FROM monthly_metrics m ORDER BY 1";

#[tokio::test]
async fn a_late_event_of_a_closed_week_is_in_the_week_after_the_next_reconciliation() {
    let world = World::new("late").await;
    let monday = last_monday();
    let event =
        |time: &str| json!([{"occurred_at": format!("{monday}T{time}Z"), "ip_asset_id": "ast_1", "actor_id": "ann"}]);
    world.events(event("12:00:00")).await;
    world.deliver(AGGREGATE, [json!({"action": "hourly"})]).await;
    reconcile(&world).await;
    assert_eq!(world.rows(WEEKS).await, [json!({"week": monday, "views": 1})]);

    world.events(event("13:00:00")).await;
    world.deliver(AGGREGATE, [json!({"action": "hourly"})]).await;
    assert!(
        world
            .count("SELECT count(*) FROM metrics_dirty_periods WHERE granularity = 'week'")
            .await
            > 0
    );
    reconcile(&world).await;
    assert_eq!(world.rows(WEEKS).await, [json!({"week": monday, "views": 2})]);
    assert_eq!(world.count("SELECT count(*) FROM metrics_dirty_periods").await, 0);
    assert_eq!(last_log(&world).await["status"], "COMPLETED");
}

#[tokio::test]
async fn a_week_whose_row_and_log_are_gone_comes_back() {
    let world = World::new("gone").await;
    let monday = last_monday().checked_sub_days(Days::new(70)).unwrap();
    day(&world, monday, 5).await;
    world
        .execute(
            "INSERT INTO metrics_aggregation_jobs_log (job_type, period_start_date, period_end_date, run_key, trigger, started_at, status)
             SELECT 'daily', d, d, 'daily-' || d, 'schedule', d + interval '2 days', 'COMPLETED' FROM generate_series(now()::date - 100, now()::date, '1 day') d",
            &[],
        )
        .await;
    reconcile(&world).await;
    let weeks = world.rows(WEEKS).await;
    assert_eq!(weeks, [json!({"week": monday, "views": 5})]);
    world.execute("DELETE FROM weekly_metrics", &[]).await;
    reconcile(&world).await;
    assert_eq!(
        world.rows(WEEKS).await,
        Vec::<serde_json::Value>::new(),
        "what is logged as complete is not looked at"
    );
    world
        .execute(
            "DELETE FROM metrics_aggregation_jobs_log WHERE job_type = 'weekly'",
            &[],
        )
        .await;
    reconcile(&world).await;
    assert_eq!(world.rows(WEEKS).await, weeks);
}

#[tokio::test]
async fn a_back_fill_of_nine_months_computes_forty_weeks_and_nine_months_and_again_changes_nothing() {
    let world = World::new("backfill").await;
    world
        .execute(
            "INSERT INTO daily_metrics (date, ip_asset_id, views) SELECT d, 'ast_1', 1 FROM generate_series(date '2024-12-30', '2025-10-05', '1 day') d",
            &[],
        )
        .await;
    let message = json!({"action": "backfill", "granularity": "both", "from": "2025-01-01", "to": "2025-09-30"});
    world.deliver(JOB, [message.clone()]).await;
    let weeks = world.rows(WEEKS).await;
    assert_eq!(
        (weeks.len(), &weeks[0]["week"], &weeks[39]["week"]),
        (40, &json!("2024-12-30"), &json!("2025-09-29"))
    );
    assert!(weeks.iter().all(|week| week["views"] == 7), "{weeks:?}");
    assert_eq!(world.count("SELECT count(*) FROM monthly_metrics").await, 9);
    let all = world.rows(ALL).await;
    let report = world
        .rows("SELECT report, progress FROM job_runs WHERE status = 'done'")
        .await
        .remove(0);
    assert_eq!(
        (&report["report"]["done"], &report["report"]["total"]),
        (&json!(49), &json!(49))
    );
    assert_eq!(report["progress"], json!({"done": 49, "total": 49}));

    world.deliver(JOB, [message]).await;
    assert_eq!(world.rows(ALL).await, all);
    let changed = world.count("SELECT sum((metadata ->> 'changed')::bigint)::bigint FROM metrics_aggregation_jobs_log WHERE job_type IN ('weekly', 'monthly') AND records_updated > 0").await;
    assert_eq!(changed, 0);
}

#[tokio::test]
async fn a_back_fill_rebuilds_days_as_far_as_their_events_are_kept() {
    let world = World::new("rebuild").await;
    let monday = last_monday();
    let frozen = monday.checked_sub_days(Days::new(120)).unwrap();
    world
        .events(json!([{"occurred_at": format!("{monday}T12:00:00Z"), "ip_asset_id": "ast_1"}]))
        .await;
    day(&world, frozen, 9).await;
    world
        .deliver(JOB, [json!({"action": "backfill", "granularity": "weekly", "from": frozen, "to": monday, "rebuildDaily": true})])
        .await;
    let weeks = world.rows(WEEKS).await;
    assert_eq!(weeks.len(), 2, "{weeks:?}");
    assert_eq!((&weeks[0]["views"], &weeks[1]["views"]), (&json!(9), &json!(1)));
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_total_that_was_tampered_with_is_found_and_fixed() {
    let world = World::new("tampered").await;
    day(&world, date("2025-10-06"), 10).await;
    world
        .deliver(ROLL_UP, [json!({"jobType": "weekly", "periodStart": "2025-10-06"})])
        .await;
    world.execute("UPDATE weekly_metrics SET total_views = 11", &[]).await;
    world
        .deliver(
            JOB,
            [json!({"action": "verify", "granularity": "weekly", "from": "2025-10-01", "to": "2025-10-31"})],
        )
        .await;
    assert_eq!(world.rows(WEEKS).await, [json!({"week": "2025-10-06", "views": 10})]);
    let log = last_log(&world).await;
    assert_eq!(
        (&log["metadata"]["fixed"], &log["status"], &log["errors_count"]),
        (&json!(1), &json!("COMPLETED"), &json!(0))
    );
}

#[tokio::test]
async fn october_is_compared_with_the_october_before_whichever_is_computed_last() {
    let world = World::new("yoy").await;
    let yoy = "SELECT year, views_yoy_percent AS yoy FROM monthly_metrics ORDER BY 1";
    day(&world, date("2024-10-15"), 80).await;
    day(&world, date("2025-10-15"), 100).await;
    for start in ["2025-10-01", "2024-10-01"] {
        world
            .deliver(ROLL_UP, [json!({"jobType": "monthly", "periodStart": start})])
            .await;
    }
    let expected = [json!({"year": 2024, "yoy": null}), json!({"year": 2025, "yoy": 25.00})];
    assert_eq!(world.rows(yoy).await, expected);
    world
        .execute("UPDATE monthly_metrics SET views_yoy_percent = 7", &[])
        .await;
    world
        .deliver(
            JOB,
            [
                json!({"action": "yoy", "year": 2025, "month": 10}),
                json!({"action": "yoy", "year": 2024, "month": 10}),
            ],
        )
        .await;
    assert_eq!(world.rows(yoy).await, expected);
}

#[tokio::test]
async fn a_week_that_changes_changes_the_growth_of_the_next() {
    let world = World::new("next_growth").await;
    day(&world, date("2025-10-06"), 80).await;
    day(&world, date("2025-10-13"), 100).await;
    world
        .deliver(
            JOB,
            [json!({"action": "backfill", "from": "2025-10-06", "to": "2025-10-19"})],
        )
        .await;
    let growth = "SELECT views_growth_percent AS growth FROM weekly_metrics WHERE week_start_date = '2025-10-13'";
    assert_eq!(world.rows(growth).await, [json!({"growth": 25.00})]);
    world
        .execute("UPDATE daily_metrics SET views = 50 WHERE date = '2025-10-06'", &[])
        .await;
    world
        .deliver(ROLL_UP, [json!({"jobType": "weekly", "periodStart": "2025-10-06"})])
        .await;
    assert_eq!(world.rows(growth).await, [json!({"growth": 100.00})]);
}

#[tokio::test]
async fn a_period_that_fails_takes_no_other_down_and_the_message_comes_again_for_it() {
    let world = World::new("one_fails").await;
    for start in ["2025-10-06", "2025-10-13", "2025-10-20"] {
        day(&world, date(start), 1).await;
    }
    world
        .execute(
            "ALTER TABLE weekly_metrics ADD CONSTRAINT broken CHECK (week_start_date <> '2025-10-13')",
            &[],
        )
        .await;
    world.send(
        JOB,
        [json!({"action": "backfill", "granularity": "weekly", "from": "2025-10-06", "to": "2025-10-26"})],
    );
    world.pump(JOB).await;
    assert_eq!(world.rows(WEEKS).await.len(), 2);
    let log = last_log(&world).await;
    assert_eq!((&log["status"], &log["errors_count"]), (&json!("PARTIAL"), &json!(1)));
    assert_eq!(world.count("SELECT count(*) FROM metrics_aggregation_jobs_log WHERE status = 'FAILED' AND period_start_date = '2025-10-13'").await, 1);
    world
        .execute("ALTER TABLE weekly_metrics DROP CONSTRAINT broken", &[])
        .await;
    world.drain(JOB).await;
    assert_eq!(world.rows(WEEKS).await.len(), 3);
    let log = last_log(&world).await;
    assert_eq!((&log["status"], &log["attempt"]), (&json!("COMPLETED"), &json!(2)));
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn what_is_no_range_is_dead_with_the_reason() {
    let world = World::new("no_range").await;
    let bad = [
        (
            json!({"action": "backfill", "from": "2025-10-02", "to": "2025-10-01"}),
            "is after",
        ),
        (
            json!({"action": "verify", "from": "2020-01-01", "to": "2025-01-01"}),
            "more than five years",
        ),
        (json!({"action": "backfill"}), "`from` and `to` are missing"),
        (json!({"action": "yoy", "year": 2025, "month": 13}), "no month"),
        (
            json!({"action": "backfill", "granularity": "hourly", "from": "2025-10-01", "to": "2025-10-01"}),
            "unknown variant `hourly`",
        ),
    ];
    world.refuses(JOB, &bad).await;
}
