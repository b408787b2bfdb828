//! What goes for good: files that no scan could accept, infected ones, and what keeps an asset all the same.

use serde_json::{Value, json};

use crate::{BUCKET, asset, has_objects, run, world};

#[tokio::test]
async fn what_no_scan_could_accept_goes_after_a_week_and_what_a_person_rejected_stays() {
    let world = world("uploads_failed").await;
    world
        .storage
        .put(BUCKET, "derived/failed_1/9f86d081884c-v1/thumbnail_small.jpg", "12");
    world.storage.put(BUCKET, "derived/failed_10/kept", "x");

    let report = run(&world, json!({"sweep": "failed"})).await;

    assert_eq!(
        (&report["failedCleaned"], &report["storageFreed"]),
        (&json!(2), &json!(10))
    );
    for gone in ["failed_1", "failed_2"] {
        assert_eq!(asset(&world, gone).await, None);
        assert!(!has_objects(&world, gone));
    }
    for kept in ["fresh", "person"] {
        assert!(
            asset(&world, kept).await.is_some() && has_objects(&world, kept),
            "{kept}"
        );
    }
    assert!(has_objects(&world, "failed_10"));
    let audited: Value = sqlx::query_scalar("SELECT after_state FROM audit_events WHERE entity_id = 'failed_1'")
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(
        audited,
        json!({"kind": "removed", "type": "IMAGE", "sha256": null, "bytes": "6", "objects": 2})
    );
}

#[tokio::test]
async fn an_infected_file_goes_after_a_month_and_leaves_an_audit_event() {
    let world = world("uploads_infected").await;

    let report = run(&world, json!({"sweep": "infected"})).await;

    assert_eq!(
        (&report["infectedCleaned"], &report["storageFreed"]),
        (&json!(2), &json!(16))
    );
    assert!(!has_objects(&world, "infected_1") && !has_objects(&world, "infected_2"));
    assert!(has_objects(&world, "caught"));
    let audited: Vec<Value> = sqlx::query_scalar(
        "SELECT after_state FROM audit_events WHERE action = 'INFECTED_FILE_PURGED' ORDER BY entity_id",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    assert_eq!(audited.len(), 2);
    assert_eq!(audited[0]["scanResult"], json!({"clean": false, "sha256": "ff"}));
    assert_eq!(
        (&audited[0]["sha256"], &audited[0]["uploader"]),
        (&json!("ff"), &json!("u"))
    );
    assert!(audited[0]["quarantinedAt"].is_string());
    assert_eq!(world.count("SELECT count(*) FROM audit_events").await, 2);
}

#[tokio::test]
async fn a_quarantine_may_be_another_bucket() {
    let world = world("uploads_quarantine").await;
    world.set("QUARANTINE_BUCKET", "quarantine");
    world.storage.put("quarantine", "quarantine/infected_1/ff", "malware");

    let report = run(&world, json!({"sweep": "infected"})).await;

    assert_eq!(report["storageFreed"], 7 + 8);
    assert_eq!(world.storage.keys("quarantine"), [""; 0]);
}

#[tokio::test]
async fn a_licence_in_force_and_an_open_dispute_keep_an_asset_whole() {
    let world = world("uploads_blocked").await;
    let references = "
        INSERT INTO brands (id, user_id, company_name) VALUES ('b', 'u', 'B');
        INSERT INTO creators (id, user_id, stage_name) VALUES ('c', 'u', 'C');
        INSERT INTO licenses (id, ip_asset_id, brand_id, license_type, start_date, end_date, status)
        VALUES ('l', 'failed_1', 'b', 'EXCLUSIVE', '2020-01-01', now()::date + 100, 'ACTIVE');
        INSERT INTO ip_ownerships (ip_asset_id, creator_id, share_bps, start_date, disputed) VALUES ('failed_2', 'c', 10000, '2020-01-01', true)";
    sqlx::raw_sql(references).execute(&world.db).await.unwrap();

    let report = run(&world, json!({"sweep": "failed"})).await;
    assert_eq!((&report["blocked"], &report["failedCleaned"]), (&json!(2), &json!(0)));
    let reasons = "SELECT string_agg(id || '=' || purge_blocked_reason, ' ' ORDER BY id) FROM ip_assets WHERE purge_started_at IS NULL AND deleted_at IS NULL";
    let reasons: String = sqlx::query_scalar(reasons).fetch_one(&world.db).await.unwrap();
    assert_eq!(reasons, "failed_1=license failed_2=dispute");
    assert!(has_objects(&world, "failed_1") && has_objects(&world, "failed_2"));

    let settled = "
        UPDATE licenses SET status = 'TERMINATED';
        UPDATE ip_ownerships SET resolved_at = now()";
    sqlx::raw_sql(settled).execute(&world.db).await.unwrap();
    let report = run(&world, json!({"sweep": "failed"})).await;
    assert_eq!((&report["blocked"], &report["failedCleaned"]), (&json!(0), &json!(2)));
    assert!(!has_objects(&world, "failed_1") && !has_objects(&world, "failed_2"));
    let tombstones = "SELECT count(*) FROM ip_assets
                      WHERE id LIKE 'failed%' AND title = '[deleted]' AND purged_at IS NOT NULL AND deleted_at IS NOT NULL
                        AND storage_key = 'purged/' || id AND purge_blocked_reason IS NULL AND search_vector IS NULL";
    assert_eq!(
        world.count(tombstones).await,
        2,
        "the licence and the owner refer to them"
    );
    assert_eq!(world.count("SELECT count(*) FROM ip_ownerships").await, 1);
    let kinds =
        "SELECT count(*) FROM audit_events WHERE action = 'ASSET_PURGED' AND after_state ->> 'kind' = 'tombstone'";
    assert_eq!(world.count(kinds).await, 2);
}

#[tokio::test]
async fn nothing_keeps_malware_but_its_row_stays_for_what_refers_to_it() {
    let world = world("uploads_licensed_malware").await;
    let references = "
        INSERT INTO brands (id, user_id, company_name) VALUES ('b', 'u', 'B');
        INSERT INTO licenses (ip_asset_id, brand_id, license_type, start_date, end_date, status)
        VALUES ('infected_1', 'b', 'EXCLUSIVE', '2020-01-01', now()::date + 100, 'ACTIVE');
        INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, superseded_at)
        VALUES ('infected_1', 'thumbnail', 'small', 'u/infected_1/old.jpg', 2, now()), ('infected_2', 'thumbnail', 'small', 'u/infected_2/old.jpg', 2, NULL);
        INSERT INTO asset_processing_steps (asset_id, step, status) VALUES ('infected_1', 'thumbnail', 'CANCELLED');
        INSERT INTO daily_metrics (date, ip_asset_id) VALUES ('2020-01-01', 'infected_2')";
    sqlx::raw_sql(references).execute(&world.db).await.unwrap();
    world.storage.put(BUCKET, "u/infected_1/old.jpg", "12");

    let report = run(&world, json!({"sweep": "infected"})).await;

    assert_eq!((&report["infectedCleaned"], &report["blocked"]), (&json!(2), &json!(0)));
    assert!(!has_objects(&world, "infected_1"));
    let tombstones = "SELECT count(*) FROM ip_assets WHERE id IN ('infected_1', 'infected_2') AND purged_at IS NOT NULL AND quarantine_key IS NULL";
    assert_eq!(world.count(tombstones).await, 2, "metrics are a reference, too");
    let left = "SELECT (SELECT count(*) FROM asset_variants) + (SELECT count(*) FROM asset_processing_steps WHERE asset_id LIKE 'infected%')";
    assert_eq!(world.count(left).await, 0);
    assert_eq!(
        run(&world, json!({"sweep": "infected"})).await["infectedCleaned"],
        0,
        "a tombstone is no file"
    );
}

#[tokio::test]
async fn an_asset_that_another_one_was_made_of_stays_as_a_tombstone() {
    let world = world("uploads_versions").await;
    world
        .execute(
            "UPDATE ip_assets SET parent_asset_id = 'failed_1' WHERE id = 'failed_2'",
            &[],
        )
        .await;

    assert_eq!(run(&world, json!({"sweep": "failed"})).await["failedCleaned"], 2);

    assert_eq!(asset(&world, "failed_2").await, None);
    assert_eq!(
        asset(&world, "failed_1").await.unwrap(),
        "REJECTED/ERROR/SCAN_ERROR/deleted"
    );
}
