use serde_json::json;
use testkit::World;

use crate::{JOB, ago, at, daily, days, last_log};

#[tokio::test]
async fn three_views_of_which_one_is_a_duplicate_and_a_download_make_one_row_however_often_it_is_computed() {
    let world = World::new("three_views").await;
    let day = ago(1);
    world
        .events(json!([
            {"occurred_at": at(day, "12:00:00.1"), "actor_id": "ann", "ip_asset_id": "ast_1"},
            {"occurred_at": at(day, "12:00:00.9"), "actor_id": "ann", "ip_asset_id": "ast_1"},
            {"occurred_at": at(day, "23:59:59.999"), "actor_id": "bob", "ip_asset_id": "ast_1", "props": {"revenueCents": 500}},
            {"occurred_at": at(day, "13:00:00"), "actor_id": "bob", "ip_asset_id": "ast_1", "event_type": "asset_downloaded"},
        ]))
        .await;
    daily(&world, day).await;
    let expected = json!({
        "date": day, "project_id": null, "ip_asset_id": "ast_1", "license_id": null, "views": 2, "clicks": 1, "conversions": 0,
        "revenue_cents": 500, "unique_visitors": 2, "engagement_time": 0
    });
    assert_eq!(days(&world).await, std::slice::from_ref(&expected));
    let versions = "SELECT xmin::text AS written, xmax::text AS locked, d.* FROM daily_metrics d";
    let before = world.rows(versions).await;
    daily(&world, day).await;
    assert_eq!(world.rows(versions).await, before, "not even touched");
    let log = last_log(&world, "daily").await;
    assert_eq!(
        (
            &log["records_processed"],
            &log["records_created"],
            &log["records_updated"],
            &log["status"]
        ),
        (&json!(3), &json!(0), &json!(1), &json!("COMPLETED"))
    );
}

#[tokio::test]
async fn what_is_about_nothing_makes_no_row_and_a_row_whose_events_are_gone_goes() {
    let world = World::new("about_nothing").await;
    let day = ago(1);
    world
        .events(json!([
            {"id": "gone", "occurred_at": at(day, "12:00:00"), "ip_asset_id": "ast_1"},
            {"occurred_at": at(day, "12:00:01")},
            {"occurred_at": at(day, "12:00:02"), "ip_asset_id": "ast_1", "event_type": "never_heard_of", "props": {"revenueCents": 7}},
            {"occurred_at": at(day, "12:00:03"), "ip_asset_id": "ast_1", "is_bot": true},
        ]))
        .await;
    daily(&world, day).await;
    assert_eq!(
        days(&world).await[0]["views"],
        1,
        "an unknown type and a bot count nowhere"
    );
    assert_eq!(days(&world).await[0]["revenue_cents"], 0);
    world.execute("DELETE FROM events WHERE id = 'gone'", &[]).await;
    daily(&world, day).await;
    assert_eq!(days(&world).await, Vec::<serde_json::Value>::new());
    assert_eq!(last_log(&world, "daily").await["records_deleted"], 1);
}

#[tokio::test]
async fn an_id_that_is_empty_is_none() {
    let world = World::new("empty_id").await;
    let day = ago(1);
    world
        .events(json!([
            {"occurred_at": at(day, "12:00:00"), "ip_asset_id": "ast_1", "project_id": ""},
            {"occurred_at": at(day, "12:00:01"), "ip_asset_id": "ast_1"},
            {"occurred_at": at(day, "12:00:02"), "ip_asset_id": ""},
        ]))
        .await;
    for _ in 0..2 {
        daily(&world, day).await;
        let days = days(&world).await;
        assert_eq!((days.len(), &days[0]["views"]), (1, &json!(2)));
    }
    assert_eq!(last_log(&world, "daily").await["metadata"], json!({"changed": 0}));
}

#[tokio::test]
async fn a_number_that_is_none_spoils_nothing_and_is_told() {
    let world = World::new("malformed").await;
    let day = ago(1);
    world
        .events(json!([
            {"occurred_at": at(day, "12:00:00"), "ip_asset_id": "ast_1", "props": {"revenueCents": "abc"}},
            {"occurred_at": at(day, "12:00:01"), "ip_asset_id": "ast_1", "props": {"revenueCents": "12", "engagementTime": 30}},
            {"occurred_at": at(day, "12:00:02"), "ip_asset_id": "ast_1", "props": {"revenueCents": 9_999_999_999_999_999u64}},
            {"occurred_at": at(day, "12:00:03"), "ip_asset_id": "ast_1", "props": {"revenueCents": {"a": []}, "engagementTime": -5}},
        ]))
        .await;
    daily(&world, day).await;
    let row = &days(&world).await[0];
    assert_eq!(
        (&row["views"], &row["revenue_cents"], &row["engagement_time"]),
        (&json!(4), &json!(12), &json!(30))
    );
    let log = last_log(&world, "daily").await;
    assert_eq!(
        (&log["status"], &log["metadata"]["malformed"]),
        (&json!("PARTIAL"), &json!(3))
    );
    assert_eq!(
        world.rows("SELECT metadata FROM daily_metrics").await[0]["metadata"],
        json!({"malformed": 3})
    );
}

#[tokio::test]
async fn two_keys_are_two_events_and_the_earlier_receipt_is_the_original_even_when_it_comes_late() {
    let world = World::new("two_keys").await;
    let day = ago(1);
    let event = |id: &str, received: &str, key: Option<&str>| {
        json!({"id": id, "occurred_at": at(day, "12:00:00"), "created_at": at(day, received), "ip_asset_id": "ast_1", "actor_id": "ann",
               "idempotency_key": key})
    };
    world
        .events(json!([
            event("b", "12:00:20", Some("k1")),
            event("c", "12:00:30", Some("k2")),
            event("d", "12:00:40", None)
        ]))
        .await;
    // A client that tries again inserts nothing.
    world.events(json!([event("again", "12:00:50", Some("k1"))])).await;
    daily(&world, day).await;
    assert_eq!(days(&world).await[0]["views"], 2);
    let duplicates = "SELECT id, duplicate_of FROM events WHERE duplicate_of IS NOT NULL ORDER BY id";
    assert_eq!(world.rows(duplicates).await, [json!({"id": "d", "duplicate_of": "b"})]);
    world.events(json!([event("a", "12:00:10", None)])).await;
    daily(&world, day).await;
    assert_eq!(days(&world).await[0]["views"], 1, "it may have been any of them");
    let original = world
        .rows("SELECT DISTINCT duplicate_of FROM events WHERE id <> 'a'")
        .await;
    assert_eq!(original, [json!({"duplicate_of": "a"})]);
}

#[tokio::test]
async fn a_frozen_day_keeps_its_rows_and_a_day_to_come_is_dead() {
    let world = World::new("frozen").await;
    let (frozen, oldest, tomorrow) = (ago(91), ago(90), ago(0).succ_opt().unwrap());
    for day in [frozen, oldest] {
        world
            .execute(
                "INSERT INTO daily_metrics (date, ip_asset_id, views) VALUES ($1::text::date, 'ast_1', 7)",
                &[&day.to_string()],
            )
            .await;
        daily(&world, day).await;
    }
    daily(&world, tomorrow).await;
    let left = world.rows("SELECT date FROM daily_metrics").await;
    assert_eq!(
        left,
        [json!({"date": frozen})],
        "the other one's events are gone, and it is not frozen"
    );
    let reason = world.dead_letters(JOB)[0].attributes["reason"].clone();
    assert_eq!(reason, format!("{tomorrow} is in the future"));
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'skipped' AND reason = 'frozen'")
            .await,
        1
    );
}

#[tokio::test]
async fn events_from_the_future_and_from_long_ago_do_not_count() {
    let world = World::new("limits").await;
    let day = ago(1);
    world
        .events(json!([
            {"occurred_at": at(day, "12:00:00"), "created_at": at(day, "11:00:00"), "actor_id": "a", "ip_asset_id": "ast_1"},
            {"occurred_at": at(day, "12:00:00"), "created_at": at(day, "10:59:59"), "actor_id": "b", "ip_asset_id": "ast_1"},
        ]))
        .await;
    let much_later = (chrono::Utc::now() + chrono::TimeDelta::days(365)).to_rfc3339();
    world.events(json!([{"occurred_at": at(day, "12:00:00"), "created_at": much_later, "actor_id": "c", "ip_asset_id": "ast_1"}])).await;
    daily(&world, day).await;
    assert_eq!(days(&world).await[0]["views"], 1);
}

#[tokio::test]
async fn a_property_bag_of_a_mebibyte_is_an_event_like_any_other() {
    let world = World::new("mebibyte").await;
    let day = ago(1);
    let bag = json!({"revenueCents": 5, "noise": "x".repeat(1 << 20)});
    world
        .events(json!([{"occurred_at": at(day, "12:00:00"), "ip_asset_id": "ast_1", "props": bag}]))
        .await;
    daily(&world, day).await;
    assert_eq!(days(&world).await[0]["revenue_cents"], 5);
}

#[tokio::test]
async fn a_day_that_another_message_computes_is_left_to_it_until_its_lease_ends() {
    let world = World::new("busy").await;
    let day = ago(1);
    world
        .execute(
            "INSERT INTO metrics_aggregation_jobs_log (job_type, period_start_date, period_end_date, run_key, trigger, started_at, status)
             VALUES ('daily', $1::text::date, $1::text::date, 'other', 'manual', now(), 'RUNNING')",
            &[&day.to_string()],
        )
        .await;
    world.send(JOB, [json!({"action": "daily", "date": day})]);
    world.pump(JOB).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'deferred'")
            .await,
        1
    );
    world.drain(JOB).await;
    let other = world
        .rows("SELECT status, error_message FROM metrics_aggregation_jobs_log WHERE run_key = 'other'")
        .await;
    assert_eq!(other, [json!({"status": "FAILED", "error_message": "lease_expired"})]);
    assert_eq!(last_log(&world, "daily").await["status"], "COMPLETED");
}

#[tokio::test]
async fn what_is_no_message_is_dead_with_the_reason() {
    let world = World::new("no_message").await;
    let bad = [
        (json!({"action": "yearly"}), "unknown variant `yearly`"),
        (json!({}), "missing field `action`"),
        (json!({"action": "daily", "date": "2025-02-30"}), "`date`"),
        (json!({"action": "hourly", "date": "2025-02-28"}), "`date` is for daily"),
        (
            json!({"action": "hourly", "from": "2025-02-01T00:00:00Z", "to": "2025-02-05T00:00:00Z"}),
            "72 hours",
        ),
        (
            json!({"action": "hourly", "from": "2025-02-01T00:00:00Z"}),
            "come together",
        ),
    ];
    world.refuses(JOB, &bad).await;
}
