//! `storage-metrics-calculation`, the built function on a real database.

use serde_json::{Value, json};
use testkit::sweep::report;
use testkit::{World, faults};

const JOB: &str = "storage-metrics-calculation";

const GIVEN: &str = "
    INSERT INTO users (id, deleted_at) VALUES ('u1', NULL), ('u2', NULL), ('u3', NULL), ('u9', now());
    INSERT INTO brands (id, user_id, company_name) VALUES ('b1', 'u1', 'One'), ('b2', 'u2', 'Two');
    INSERT INTO projects (id, brand_id, name, created_by) VALUES ('p1', 'b1', 'P', 'u1'), ('p2', 'b1', 'P', 'u1'), ('p3', 'b2', 'P', 'u2');
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, project_id, deleted_at) VALUES
        ('a1', 't', 'IMAGE',    'k1', 1000, 'u1', 'p1', NULL),
        ('a3', 't', 'VIDEO',    'k2', 5000, 'u1', 'p2', NULL),
        ('a2', 't', 'IMAGE',    'k3', 5000, 'u2', NULL, NULL),
        ('a4', 't', 'DOCUMENT', 'k4', 300,  'u9', 'p3', NULL),
        ('a5', 't', 'IMAGE',    'k5', 9999, 'u1', 'p1', now());
    INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, superseded_at) VALUES
        ('a1', 'thumbnail', 'small', 'v1', 30, NULL), ('a1', 'thumbnail', 'large', 'v2', 40, NULL), ('a1', 'preview', 'x', 'v3', 500, now());
    INSERT INTO storage_metrics (snapshot_date, entity_type, entity_id, total_bytes, file_count, average_file_size, largest_file_size)
    SELECT (now() AT TIME ZONE 'UTC')::date - 1, type, id, bytes, 1, bytes, bytes
    FROM (VALUES ('platform', '', 10000), ('user', 'u3', 40), ('user', 'u9', 300)) m (type, id, bytes)";

async fn snapshot(world: &World, day: &str) -> Vec<String> {
    let rows = format!(
        "SELECT concat_ws(' ', entity_type, entity_id, total_bytes, file_count, average_file_size, largest_file_size, largest_file_id,
                          derived_bytes, storage_trend_bps)
         FROM storage_metrics WHERE snapshot_date = (now() AT TIME ZONE 'UTC')::date + {day} ORDER BY entity_type, entity_id"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(rows))
        .fetch_all(&world.db)
        .await
        .expect("the database")
}

const TODAY: [&str; 9] = [
    "brand b1 6000 2 3000 5000 a3 70 0",
    "brand b2 300 1 300 300 a4 0 0",
    "platform  11300 4 2825 5000 a2 70 1300",
    "project p1 1000 1 1000 1000 a1 70 0",
    "project p2 5000 1 5000 5000 a3 0 0",
    "project p3 300 1 300 300 a4 0 0",
    "user u1 6000 2 3000 5000 a3 70 0",
    "user u2 5000 1 5000 5000 a2 0 0",
    "user u3 0 0 0 0 0 -10000",
];

#[tokio::test]
async fn a_day_has_one_row_for_each_who_has_or_had_something_however_often_it_is_measured() {
    let world = World::new("metrics_day").await;
    sqlx::raw_sql(GIVEN).execute(&world.db).await.unwrap();

    world.deliver(JOB, [json!({"dryRun": true})]).await;
    assert_eq!(report(&world, JOB).await["rows"], 9);
    assert_eq!(snapshot(&world, "0").await, [""; 0]);

    for _ in 0..2 {
        world.deliver(JOB, [json!({})]).await;
        assert_eq!(report(&world, JOB).await["rows"], 9);
        assert_eq!(snapshot(&world, "0").await, TODAY);
    }
    let breakdown = "SELECT breakdown_by_type FROM storage_metrics WHERE entity_type = 'user' AND entity_id = 'u1'";
    let breakdown: Value = sqlx::query_scalar(breakdown).fetch_one(&world.db).await.unwrap();
    assert_eq!(
        breakdown,
        json!({"IMAGE": {"bytes": "1000", "count": 1}, "VIDEO": {"bytes": "5000", "count": 1}})
    );
}

#[tokio::test]
async fn who_has_lost_everything_gets_one_last_row_and_none_the_day_after() {
    let world = World::new("metrics_last_row").await;
    sqlx::raw_sql(GIVEN).execute(&world.db).await.unwrap();
    world.deliver(JOB, [json!({})]).await;
    sqlx::query("UPDATE storage_metrics SET snapshot_date = snapshot_date - 1")
        .execute(&world.db)
        .await
        .unwrap();

    world.deliver(JOB, [json!({})]).await;

    let rows = snapshot(&world, "0").await;
    assert_eq!(rows.len(), 8);
    assert!(!rows.iter().any(|row| row.contains("u3")), "{rows:?}");
    assert!(
        rows.contains(&"platform  11300 4 2825 5000 a2 70 0".to_owned()),
        "{rows:?}"
    );
}

#[tokio::test]
async fn an_empty_platform_has_a_row_of_zeros_and_large_numbers_stay_exact() {
    let world = World::new("metrics_extremes").await;
    world.deliver(JOB, [json!({})]).await;
    assert_eq!(snapshot(&world, "0").await, ["platform  0 0 0 0 0 0"]);

    let assets = "
        INSERT INTO users (id) VALUES ('u');
        INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by)
        SELECT 'a' || i, 't', 'VIDEO', 'k' || i, 9007199254740993, 'u' FROM generate_series(1, 2) i";
    sqlx::raw_sql(assets).execute(&world.db).await.unwrap();
    world.deliver(JOB, [json!({})]).await;
    let bytes = "SELECT breakdown_by_type #>> '{VIDEO,bytes}' FROM storage_metrics WHERE entity_type = 'user'";
    assert_eq!(
        sqlx::query_scalar::<_, String>(bytes)
            .fetch_one(&world.db)
            .await
            .unwrap(),
        "18014398509481986"
    );
}

#[tokio::test]
async fn the_past_cannot_be_measured() {
    let world = World::new("metrics_past").await;
    let day = async |days: i32| -> String {
        sqlx::query_scalar("SELECT ((now() AT TIME ZONE 'UTC')::date - $1)::text")
            .bind(days)
            .fetch_one(&world.db)
            .await
            .unwrap()
    };

    world.deliver(JOB, [json!({ "snapshotDate": day(1).await })]).await;
    assert_eq!(snapshot(&world, "-1").await.len(), 1);

    let slot = format!("{}T02:00:00Z", day(7).await);
    world
        .deliver(
            JOB,
            [
                json!({ "snapshotDate": day(3).await }),
                json!({ "asOf": slot, "schedule": "daily" }),
            ],
        )
        .await;
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 2);
    for letter in dead {
        assert!(
            letter.attributes["reason"].contains("is neither today nor yesterday"),
            "{:?}",
            letter.attributes
        );
    }
    assert_eq!(world.count("SELECT count(*) FROM storage_metrics").await, 1);
}

#[tokio::test]
async fn old_days_go_but_for_the_first_of_each_month() {
    let world = World::new("metrics_old").await;
    let rows = "
        INSERT INTO storage_metrics (snapshot_date, entity_type, total_bytes, file_count, average_file_size, largest_file_size)
        SELECT day::date, 'platform', 0, 0, 0, 0
        FROM generate_series((now() AT TIME ZONE 'UTC')::date - 465, (now() AT TIME ZONE 'UTC')::date - 390, interval '1 day') day";
    sqlx::raw_sql(rows).execute(&world.db).await.unwrap();

    world.deliver(JOB, [json!({})]).await;

    let left = "SELECT count(*) FROM storage_metrics
                WHERE snapshot_date < (now() AT TIME ZONE 'UTC')::date - 400 AND extract(day FROM snapshot_date) <> 1";
    assert_eq!(world.count(left).await, 0);
    let firsts = "SELECT count(*) FROM storage_metrics WHERE snapshot_date < (now() AT TIME ZONE 'UTC')::date - 400";
    assert!(world.count(firsts).await >= 2);
    let young = "SELECT count(*) FROM storage_metrics WHERE snapshot_date BETWEEN (now() AT TIME ZONE 'UTC')::date - 400 AND (now() AT TIME ZONE 'UTC')::date - 390";
    assert_eq!(world.count(young).await, 11);
}

#[tokio::test]
async fn two_at_once_make_one_snapshot() {
    let world = World::new("metrics_two").await;
    world.scale(JOB, 2);
    sqlx::raw_sql(GIVEN).execute(&world.db).await.unwrap();

    world.deliver(JOB, [json!({}), json!({})]).await;

    assert_eq!(snapshot(&world, "0").await, TODAY);
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn whatever_fails_the_day_is_measured() {
    faults::everywhere("metrics_faults", async |world| {
        sqlx::raw_sql(GIVEN).execute(&world.db).await.expect("rows that fit");
        world.deliver(JOB, [json!({})]).await;
        assert_eq!(snapshot(world, "0").await, TODAY);
        assert_eq!(report(world, JOB).await["rows"], 9);
    })
    .await;
}
