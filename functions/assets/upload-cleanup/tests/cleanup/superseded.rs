//! Files that newer ones have replaced.

use serde_json::json;
use testkit::World;
use testkit::storage::Refusal;

use crate::{BUCKET, run, world};

/// A variant of the asset `clean`, and its object.
async fn variant(world: &World, name: &str, key: &str, superseded: &str) {
    let sql = format!(
        "INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, superseded_at)
         VALUES ('clean', 'preview', $1, $2, 4, {superseded})"
    );
    world.execute(&sql, &[name, key]).await;
    world.storage.put(BUCKET, key, "four");
}

#[tokio::test]
async fn what_a_newer_file_has_replaced_goes_a_week_later_and_never_what_is_live() {
    let world = world("uploads_superseded").await;
    for (name, key, superseded) in [
        ("a", "derived/clean/r-v1/a", "now() - interval '8 days'"),
        ("b", "derived/clean/r-v1/b", "now() - interval '6 days'"),
        ("c", "derived/clean/r-v1/c", "NULL"),
        // Replaced, and back again.
        ("d", "derived/clean/r-v1/d", "now() - interval '9 days'"),
        ("d", "derived/clean/r-v1/d", "NULL"),
    ] {
        variant(&world, name, key, superseded).await;
    }

    let dry = run(&world, json!({"sweep": "superseded", "dryRun": true})).await;
    assert_eq!(
        (&dry["supersededCleaned"], &dry["storageFreed"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(world.count("SELECT count(*) FROM asset_variants").await, 5);

    let report = run(&world, json!({"sweep": "superseded", "batchSize": 1})).await;

    assert_eq!(
        (&report["supersededCleaned"], &report["storageFreed"]),
        (&json!(2), &json!(4))
    );
    let left = "SELECT string_agg(name, '' ORDER BY name) FROM asset_variants";
    let left: String = sqlx::query_scalar(left).fetch_one(&world.db).await.expect("names");
    assert_eq!(left, "bcd");
    let keys = world.storage.keys(BUCKET);
    let kept: Vec<_> = keys
        .iter()
        .filter(|key| key.starts_with("derived/"))
        .map(|key| &key[key.len() - 1..])
        .collect();
    assert_eq!(kept, ["b", "c", "d"]);
}

#[tokio::test]
async fn a_replaced_file_that_s3_keeps_keeps_its_row_and_one_of_an_asset_at_work_waits() {
    let world = world("uploads_superseded_kept").await;
    variant(&world, "a", "derived/clean/r-v1/a", "now() - interval '8 days'").await;
    world.storage.refuse("derived/clean/r-v1/a", Refusal::AccessDenied);
    let report = run(&world, json!({"sweep": "superseded"})).await;
    assert_eq!(
        (&report["supersededCleaned"], &report["errors"]),
        (&json!(0), &json!(1))
    );

    world.storage.recover();
    let at_work = "UPDATE asset_processing_steps SET status = 'RUNNING', lease_until = now() + interval '1 minute' WHERE step = 'preview'";
    world.execute(at_work, &[]).await;
    assert_eq!(
        run(&world, json!({"sweep": "superseded"})).await["supersededCleaned"],
        0
    );

    world
        .execute("UPDATE asset_processing_steps SET status = 'SUCCEEDED'", &[])
        .await;
    assert_eq!(
        run(&world, json!({"sweep": "superseded"})).await["supersededCleaned"],
        1
    );
    assert_eq!(world.count("SELECT count(*) FROM asset_variants").await, 0);
}
