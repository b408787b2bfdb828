//! All previews that follow other rules.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::World;

use crate::{JOB, world};

/// So many films and sounds, scanned long ago, with previews of version 0.
async fn stale(world: &World, count: usize) {
    world
        .execute(
            "INSERT INTO ip_assets (id, title, type, storage_key, file_size, mime_type, content_sha256, created_by, status, scan_status)
             SELECT 'a' || to_char(n, 'FM0000'), 't', CASE n % 5 WHEN 0 THEN 'AUDIO' ELSE 'VIDEO' END, 'assets/a' || n || '/x', 1, 'video/mp4',
                    repeat('0', 64), 'u', 'PUBLISHED', 'CLEAN'
             FROM generate_series(1, $1::int) n",
            &[&count.to_string()],
        )
        .await;
    world
        .execute(
            "INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, params_version)
             SELECT id, 'preview', 'preview', 'derived/' || id || '/v0', 1, 0 FROM ip_assets",
            &[],
        )
        .await;
}

/// Invokes the function with the message, and with each that continues it. Gives how often, and what else lies in its queue then, which
/// is never delivered.
async fn pages(world: &World, message: Value) -> (usize, Vec<Value>) {
    let mut to_do = vec![message];
    let mut pages = 0;
    while pages < to_do.len() {
        world.invoke(JOB, to_do[pages].clone()).await.expect("it settles");
        pages += 1;
        to_do.truncate(1);
        to_do.extend(queued(world, true));
    }
    (pages, queued(world, false))
}

fn queued(world: &World, is_bulk: bool) -> Vec<Value> {
    let messages = world.queued(JOB).into_iter().map(|message| message.json());
    messages
        .filter(|message: &Value| message.get("mode").is_some() == is_bulk)
        .collect()
}

#[tokio::test]
async fn every_stale_preview_is_asked_for_page_by_page() {
    let world = world("preview_bulk").await;
    stale(&world, 250).await;
    // Not these.
    world
        .execute(
            "INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, deleted_at)
             SELECT 'b' || n, 't', CASE n WHEN 1 THEN 'IMAGE' ELSE 'VIDEO' END, 'assets/b' || n || '/x', 1, 'u',
                    CASE n WHEN 2 THEN 'REJECTED' ELSE 'PUBLISHED' END, CASE n WHEN 3 THEN 'INFECTED' ELSE 'CLEAN' END,
                    CASE n WHEN 4 THEN now() END
             FROM generate_series(1, 5) n",
            &[],
        )
        .await;
    world
        .execute(
            "INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, params_version)
             VALUES ('b5', 'preview', 'preview', 'derived/b5/v1', 1, 1)",
            &[],
        )
        .await;
    world
        .execute(
            "INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, processing_config)
             VALUES ('b6', 't', 'VIDEO', 'assets/b6/x', 1, 'u', 'PUBLISHED', 'CLEAN', '{\"preview\": false}')",
            &[],
        )
        .await;

    let (bulks, singles) = pages(&world, json!({"mode": "bulk", "specVersion": 1, "pageSize": 100})).await;

    assert_eq!((bulks, singles.len()), (3, 250));
    assert_eq!(
        singles[0],
        json!({"assetId": "a0001", "force": true, "requestId": "bulk-1-a0001"})
    );
    let distinct: BTreeSet<_> = singles.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), 250);
    // The same requests come again, of sounds alone.
    world
        .invoke(
            JOB,
            json!({"mode": "bulk", "specVersion": 1, "pageSize": 500, "type": "AUDIO"}),
        )
        .await
        .expect("it settles");
    let again = queued(&world, false).split_off(250);
    assert_eq!(again.len(), 50);
    assert!(again.iter().all(|message| distinct.contains(&message.to_string())));
}

#[tokio::test]
async fn rules_of_yesterday_are_skipped_and_those_of_tomorrow_waited_for() {
    let world = world("preview_bulk_versions").await;
    stale(&world, 3).await;
    world.execute("UPDATE asset_variants SET params_version = 1", &[]).await;

    world.send(JOB, [json!({"mode": "bulk", "specVersion": 2})]);
    world.pump(JOB).await;

    let reason =
        "SELECT count(*) FROM job_runs WHERE status = 'retrying' AND error LIKE '%newer code is not deployed yet'";
    assert_eq!(world.count(reason).await, 1);
    world.drain(JOB).await;
    assert_eq!(world.dead_letters(JOB).len(), 1, "not for ever");
}
