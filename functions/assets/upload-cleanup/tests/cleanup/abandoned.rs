//! Uploads that nobody confirmed.

use serde_json::json;
use testkit::World;

use crate::{BUCKET, asset, has_objects, run, world};

#[tokio::test]
async fn an_upload_that_nobody_confirmed_for_a_day_is_rejected_and_its_object_goes() {
    let world = world("uploads_abandoned").await;
    let young = "UPDATE ip_assets SET created_at = now() - interval '23 hours' WHERE id = 'young'";
    world.execute(young, &[]).await;

    let report = run(&world, json!({"sweep": "abandoned"})).await;

    assert_eq!(
        (&report["abandonedCleaned"], &report["storageFreed"]),
        (&json!(2), &json!(8))
    );
    assert_eq!(
        asset(&world, "abandoned_1").await.unwrap(),
        "REJECTED/PENDING/ABANDONED/deleted"
    );
    assert!(!has_objects(&world, "abandoned_1"));
    assert_eq!(asset(&world, "young").await.unwrap(), "DRAFT/PENDING");
    assert!(has_objects(&world, "young"));
    let confirmed = "WITH late AS (UPDATE ip_assets SET status = 'PROCESSING' WHERE id = 'abandoned_1' AND status = 'DRAFT' RETURNING 1)
                     SELECT count(*) FROM late";
    assert_eq!(world.count(confirmed).await, 0, "a confirmation that comes late");
}

#[tokio::test]
async fn a_draft_that_was_confirmed_once_is_a_persons_work_however_old() {
    let world = world("uploads_sent_back").await;
    let sent_back = "UPDATE ip_assets SET upload_confirmed_at = now() - interval '3 days' WHERE id = 'abandoned_2'";
    world.execute(sent_back, &[]).await;

    assert_eq!(run(&world, json!({})).await["abandonedCleaned"], 1);

    assert_eq!(asset(&world, "abandoned_2").await.unwrap(), "DRAFT/PENDING");
    assert!(has_objects(&world, "abandoned_2"));
}

#[tokio::test]
async fn four_hundred_and_fifty_abandoned_uploads_go_in_one_run_of_three_pages() {
    let world = World::new("uploads_many").await;
    let uploads = "
        INSERT INTO users (id) VALUES ('u');
        INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, created_at)
        SELECT 'a' || i, 't', 'IMAGE', 'uploads/u/a' || i || '/x.jpg', 4, 'u', now() - interval '2 days' - (i % 7) * interval '1 hour' FROM generate_series(1, 450) i";
    sqlx::raw_sql(uploads).execute(&world.db).await.unwrap();
    for i in 1..=450 {
        world.storage.put(BUCKET, &format!("uploads/u/a{i}/x.jpg"), "four");
    }

    let report = run(&world, json!({})).await;

    assert_eq!(
        (&report["abandonedCleaned"], &report["storageFreed"]),
        (&json!(450), &json!(1800))
    );
    assert_eq!(world.storage.keys(BUCKET), [""; 0]);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 1);
    let deletions = world
        .storage
        .calls()
        .iter()
        .filter(|call| call.starts_with("DELETE-MANY"))
        .count();
    assert_eq!(deletions, 3, "one call a page");
}
