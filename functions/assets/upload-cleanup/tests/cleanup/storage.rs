//! An S3 that refuses, is slow or is not there.

use serde_json::json;
use testkit::storage::Refusal;
use testkit::sweep::report;

use crate::{BUCKET, JOB, asset, has_objects, run, world};

#[tokio::test]
async fn an_object_that_s3_does_not_delete_keeps_its_row_and_the_next_run_ends_both() {
    let world = world("uploads_refused").await;
    world.storage.refuse("uploads/u/failed_1/x.jpg", Refusal::AccessDenied);
    world
        .storage
        .refuse("uploads/u/abandoned_1/x.jpg", Refusal::AccessDenied);

    let report = run(&world, json!({})).await;
    assert_eq!(
        (&report["failedCleaned"], &report["abandonedCleaned"], &report["errors"]),
        (&json!(1), &json!(2), &json!(2))
    );
    assert_eq!(
        asset(&world, "failed_1").await.unwrap(),
        "REJECTED/ERROR/SCAN_ERROR/deleted",
        "nobody gets it back"
    );
    let failures =
        "SELECT purge_failed_count::bigint FROM ip_assets WHERE id = 'failed_1' AND purge_started_at IS NOT NULL";
    assert_eq!(world.count(failures).await, 1);
    assert!(
        has_objects(&world, "abandoned_1"),
        "asset-cleanup finds it by its deleted row"
    );

    world.storage.recover();
    let report = run(&world, json!({})).await;
    assert_eq!((&report["failedCleaned"], &report["errors"]), (&json!(1), &json!(0)));
    assert_eq!(asset(&world, "failed_1").await, None);
    assert!(!has_objects(&world, "failed_1"));
}

#[tokio::test]
async fn what_fails_again_and_again_is_tried_once_a_day() {
    let world = world("uploads_failing").await;
    world.storage.refuse("uploads/u/failed_1/x.jpg", Refusal::InternalError);
    let failed_often = "UPDATE ip_assets SET purge_started_at = now(), deleted_at = now(), purge_failed_count = 5, purge_failed_at = now() - $1::interval WHERE id = 'failed_1'";

    world.execute(failed_often, &["23 hours"]).await;
    assert_eq!(run(&world, json!({"sweep": "failed"})).await["errors"], 0);
    world.execute(failed_often, &["25 hours"]).await;
    assert_eq!(run(&world, json!({"sweep": "failed"})).await["errors"], 1);
    assert_eq!(
        world
            .count("SELECT purge_failed_count::bigint FROM ip_assets WHERE id = 'failed_1'")
            .await,
        6
    );
}

#[tokio::test]
async fn a_key_that_is_none_is_passed_over_and_its_row_is_not() {
    let world = world("uploads_bad_keys").await;
    let keys = "UPDATE ip_assets SET storage_key = CASE id WHEN 'abandoned_1' THEN 'logos/brand.png' WHEN 'failed_1' THEN 'uploads/../assets/clean/x' ELSE storage_key END";
    world.execute(keys, &[]).await;
    world.storage.put(BUCKET, "logos/brand.png", "logo");

    let report = run(&world, json!({})).await;

    assert_eq!(
        (&report["abandonedCleaned"], &report["failedCleaned"], &report["errors"]),
        (&json!(2), &json!(2), &json!(2))
    );
    assert_eq!(
        asset(&world, "abandoned_1").await.unwrap(),
        "REJECTED/PENDING/ABANDONED/deleted"
    );
    assert_eq!(asset(&world, "failed_1").await, None);
    assert!(world.storage.keys(BUCKET).contains(&"logos/brand.png".to_owned()));
}

#[tokio::test]
async fn a_folder_of_thousands_is_emptied() {
    let world = world("uploads_large_folder").await;
    for n in 0..2300 {
        world.storage.put(BUCKET, &format!("derived/failed_1/{n:04}.jpg"), "x");
    }

    let report = run(&world, json!({"sweep": "failed"})).await;

    assert_eq!(report["storageFreed"], 2300 + 2 * 4);
    assert!(!has_objects(&world, "failed_1"));
}

#[tokio::test]
async fn while_s3_asks_to_slow_down_the_run_waits_and_no_more_uploads_lose_their_rows() {
    let world = world("uploads_slow_down").await;
    world.storage.fail_next(100, Refusal::SlowDown);
    world.send(JOB, [json!({"sweep": "abandoned", "batchSize": 1})]);

    world.pump(JOB).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'deferred'")
            .await,
        1
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE rejection_reason = 'ABANDONED'")
            .await,
        1
    );

    world.storage.recover();
    world.drain(JOB).await;
    assert_eq!(report(&world, JOB).await["abandonedCleaned"], 2);
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE attempts = 1").await,
        1,
        "waiting uses no attempt"
    );
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_a_dead_letter_and_destroys_no_row() {
    let world = world("uploads_no_bucket").await;
    world.storage.fail_next(1000, Refusal::NoSuchBucket);

    world.deliver(JOB, [json!({"sweep": "failed"})]).await;

    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].attributes["reason"].contains("NoSuchBucket"),
        "{:?}",
        dead[0].attributes
    );
    assert!(asset(&world, "failed_1").await.is_some());
}
