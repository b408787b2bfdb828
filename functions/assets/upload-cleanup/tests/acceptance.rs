//! `upload-cleanup`, the built function on a real database and an S3 in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use testkit::storage::Refusal;
use testkit::sweep::{Sweep, report};
use testkit::{World, faults};

const JOB: &str = "upload-cleanup";
const BUCKET: &str = "assets";

/// Assets named for what becomes of them, two hours later, too: faults make time pass.
const GIVEN: &str = "
    INSERT INTO users (id) VALUES ('u');
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, created_at)
    SELECT id, 't', 'IMAGE', 'uploads/u/' || id || '/x.jpg', 4, 'u', now() - age
    FROM (VALUES ('abandoned_1', interval '25 hours'), ('abandoned_2', interval '3 days'), ('young', interval '12 hours')) a (id, age);
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, upload_confirmed_at, scan_requeue_count)
    SELECT id, 't', 'IMAGE', 'uploads/u/' || id || '/x.jpg', 4, 'u', 'PROCESSING', 'PENDING', now() - age, count
    FROM (VALUES ('stuck_1', interval '3 hours', 0), ('stuck_2', interval '4 hours', 1), ('waiting', -interval '1 day', 0)) a (id, age, count);
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, rejection_reason, rejected_at)
    SELECT id, 't', 'IMAGE', 'uploads/u/' || id || '/x.jpg', 4, 'u', 'REJECTED', 'ERROR', reason, now() - age
    FROM (VALUES ('failed_1', 'SCAN_ERROR', interval '8 days'), ('failed_2', 'TOO_LARGE', interval '9 days'),
                 ('fresh', 'SCAN_ERROR', interval '6 days'), ('person', 'POLICY', interval '60 days')) a (id, reason, age);
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, rejection_reason, rejected_at,
                           quarantined_at, quarantine_key, scan_result)
    SELECT id, 't', 'IMAGE', 'uploads/u/' || id || '/x.jpg', 4, 'u', 'REJECTED', 'INFECTED', 'INFECTED', now() - age, now() - age,
           'quarantine/' || id || '/ff', '{\"clean\": false, \"sha256\": \"ff\"}'
    FROM (VALUES ('infected_1', interval '31 days'), ('infected_2', interval '32 days'), ('caught', interval '29 days')) a (id, age);
    INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by, status, scan_status, upload_confirmed_at)
    VALUES ('clean', 't', 'IMAGE', 'assets/clean/9f86d081884c/original.jpg', 4, 'u', 'PROCESSING', 'CLEAN', now() - interval '4 hours');
    INSERT INTO asset_processing_steps (asset_id, step, variant, status, enqueued_at, resend_count) VALUES
        ('clean', 'thumbnail',         '',          'PENDING',   now() - interval '3 hours', 0),
        ('clean', 'metadata',          '',          'PENDING',   now() + interval '1 day',   0),
        ('clean', 'preview',           '',          'SUCCEEDED', now() - interval '3 hours', 0),
        ('clean', 'format_conversion', 'size_400w', 'PENDING',   now() - interval '3 hours', 2)";

/// What is left of all assets and steps, and how they were audited.
const STATE: &str = "
    SELECT string_agg(line, ' ' ORDER BY line COLLATE \"C\") FROM (
        SELECT id || '=' || status || '/' || scan_status || coalesce('/' || rejection_reason, '')
               || CASE WHEN deleted_at IS NOT NULL THEN '/deleted' ELSE '' END || CASE WHEN scan_requeue_count > 0 THEN '/' || scan_requeue_count ELSE '' END AS line
        FROM ip_assets
        UNION ALL SELECT step || '=' || resend_count FROM asset_processing_steps WHERE resend_count > 0
        UNION ALL SELECT action || '=' || entity_id FROM audit_events) lines";

const SWEPT: &str = "ASSET_PURGED=failed_1 ASSET_PURGED=failed_2 INFECTED_FILE_PURGED=infected_1 INFECTED_FILE_PURGED=infected_2 \
                     abandoned_1=REJECTED/PENDING/ABANDONED/deleted abandoned_2=REJECTED/PENDING/ABANDONED/deleted \
                     caught=REJECTED/INFECTED/INFECTED clean=PROCESSING/CLEAN format_conversion=3 fresh=REJECTED/ERROR/SCAN_ERROR \
                     person=REJECTED/ERROR/POLICY stuck_1=PROCESSING/PENDING/1 stuck_2=PROCESSING/PENDING/2 thumbnail=1 \
                     waiting=PROCESSING/PENDING young=DRAFT/PENDING";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: SWEPT,
        report: json!({
            "abandonedCleaned": 2, "stuckRequeued": 2, "stuckGivenUp": 0, "stepsResent": 2, "failedCleaned": 2, "infectedCleaned": 2, "supersededCleaned": 0,
            "blocked": 0, "storageFreed": 0, "errors": 0,
        }),
        shared: &[
            "abandonedCleaned",
            "stuckRequeued",
            "stepsResent",
            "failedCleaned",
            "infectedCleaned",
        ],
        page: 1,
    }
}

/// A world with the rows above, and their objects of four bytes each.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    given(&world).await;
    world
}

async fn given(world: &World) {
    sqlx::raw_sql(GIVEN).execute(&world.db).await.expect("rows that fit");
    let keys = "SELECT unnest(ARRAY[storage_key, quarantine_key]) FROM ip_assets";
    let keys: Vec<Option<String>> = sqlx::query_scalar(keys).fetch_all(&world.db).await.expect("keys");
    for key in keys.into_iter().flatten() {
        world.storage.put(BUCKET, &key, "four");
    }
}

async fn run(world: &World, message: Value) -> Map<String, Value> {
    world.deliver(JOB, [message]).await;
    report(world, JOB).await
}

/// The state of one asset; `None` when it is gone.
async fn asset(world: &World, id: &str) -> Option<String> {
    let line = "SELECT status || '/' || scan_status || coalesce('/' || rejection_reason, '') || CASE WHEN deleted_at IS NOT NULL THEN '/deleted' ELSE '' END
                FROM ip_assets WHERE id = $1";
    sqlx::query_scalar(line)
        .bind(id)
        .fetch_optional(&world.db)
        .await
        .expect("the database")
}

/// Whether an object of the asset is left, of whatever kind.
fn has_objects(world: &World, id: &str) -> bool {
    world
        .storage
        .keys(BUCKET)
        .iter()
        .any(|key| key.contains(&format!("/{id}/")))
}

fn bodies(world: &World, job: &str) -> Vec<Value> {
    world.queued(job).iter().map(|message| message.json()).collect()
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_row_is_treated_once_and_no_object_is_left_that_no_row_tells_of() {
    faults::everywhere("uploads_faults", async |world| {
        given(world).await;

        let mut report = run(world, json!({"batchSize": 10})).await;

        let state: String = sqlx::query_scalar(STATE).fetch_one(&world.db).await.expect("one text");
        assert_eq!(state, SWEPT);
        // What was deleted right before a crash is not there any more to be measured.
        let freed = report.insert("storageFreed".into(), 0.into()).expect("a number");
        assert!(freed.as_i64() <= Some(32), "{freed}");
        assert_eq!(Value::from(report), sweep().report);
        for purged in ["failed_1", "failed_2", "infected_1", "infected_2"] {
            assert!(!has_objects(world, purged), "{purged}: {:?}", world.storage.keys(BUCKET));
        }
        for kept in ["young", "stuck_1", "stuck_2", "waiting", "fresh", "person", "caught", "clean"] {
            assert!(has_objects(world, kept), "{kept}: {:?}", world.storage.keys(BUCKET));
        }
        // What a crash leaves of an abandoned upload is for asset-cleanup.
        let to_purge = "SELECT count(*) FROM ip_assets WHERE id LIKE 'abandoned%' AND deleted_at IS NOT NULL AND purged_at IS NULL";
        assert_eq!(world.count(to_purge).await, 2);
        // What a crash has kept from leaving is for outbox-relay.
        let waiting = "SELECT body::jsonb FROM outbox WHERE queue = 'asset-virus-scan'";
        let waiting: Vec<Value> = sqlx::query_scalar(waiting).fetch_all(&world.db).await.expect("the outbox");
        let sent = [bodies(world, "asset-virus-scan"), waiting].concat();
        let sent: BTreeSet<_> = sent.iter().map(Value::to_string).collect();
        assert_eq!(sent.len(), 2, "{sent:?}");
    })
    .await;
}

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
async fn a_stuck_scan_is_sent_again_every_two_hours_and_no_oftener() {
    let world = world("uploads_stuck").await;
    let message = json!({"assetId": "stuck_1", "reason": "stuck"});
    let sent = || {
        bodies(&world, "asset-virus-scan")
            .iter()
            .filter(|body| **body == message)
            .count()
    };
    let count = "SELECT scan_requeue_count::bigint FROM ip_assets WHERE id = 'stuck_1'";

    for again in ["at first", "within the hour"] {
        run(&world, json!({"sweep": "stuck"})).await;
        assert_eq!((sent(), world.count(count).await), (1, 1), "{again}");
    }
    world.advance(Duration::from_secs(2 * 3600 + 60)).await;
    run(&world, json!({"sweep": "stuck"})).await;
    assert_eq!((sent(), world.count(count).await), (2, 2), "two hours later");
}

#[tokio::test]
async fn a_scan_that_is_under_way_is_left_alone_until_its_lease_has_ended() {
    let world = world("uploads_scanning").await;
    let scanning = "UPDATE ip_assets SET scan_status = 'SCANNING', scan_lease_until = now() + CASE id WHEN 'stuck_1' THEN interval '1 hour' ELSE -interval '1 minute' END
                    WHERE id IN ('stuck_1', 'stuck_2')";
    world.execute(scanning, &[]).await;

    assert_eq!(run(&world, json!({"sweep": "stuck"})).await["stuckRequeued"], 1);

    assert_eq!(
        bodies(&world, "asset-virus-scan"),
        [json!({"assetId": "stuck_2", "reason": "stuck"})]
    );
}

#[tokio::test]
async fn an_upload_is_given_up_when_the_scanner_was_at_work_and_never_got_to_it() {
    let world = world("uploads_given_up").await;
    let sent_thrice = "UPDATE ip_assets SET scan_requeue_count = 3, scan_requeued_at = now() - interval '3 hours' WHERE id LIKE 'stuck%'";
    world.execute(sent_thrice, &[]).await;
    let scan = "INSERT INTO job_runs (job, run_key, status, trigger, first_seen_at, started_at, finished_at)
                VALUES ('asset-virus-scan', $1, $2, 'message', now(), now() - $3::interval, now())";
    world.execute(scan, &["before", "done", "4 hours"]).await;
    world.execute(scan, &["in vain", "retrying", "1 hour"]).await;

    let report = run(&world, json!({"sweep": "stuck"})).await;
    assert_eq!(
        (&report["stuckRequeued"], &report["stuckGivenUp"]),
        (&json!(2), &json!(0)),
        "the scanner is down"
    );
    let counts =
        "SELECT count(*) FROM ip_assets WHERE id LIKE 'stuck%' AND scan_requeue_count = 3 AND status = 'PROCESSING'";
    assert_eq!(world.count(counts).await, 2);

    world.execute(sent_thrice, &[]).await;
    world.execute(scan, &["since", "done", "1 hour"]).await;
    let report = run(&world, json!({"sweep": "stuck"})).await;
    assert_eq!(
        (&report["stuckRequeued"], &report["stuckGivenUp"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(asset(&world, "stuck_1").await.unwrap(), "REJECTED/ERROR/SCAN_ERROR");
    assert!(has_objects(&world, "stuck_1"));
}

#[tokio::test]
async fn a_step_that_waits_for_its_message_gets_another_one_three_times_at_most() {
    let world = world("uploads_steps").await;
    let never_sent = "INSERT INTO asset_processing_steps (asset_id, step, variant) VALUES ('clean', 'preview', 'x'), ('clean', 'format_conversion', '720p'),
                          ('clean', 'format_conversion', 'unheard-of'), ('clean', 'watermark', 'wm-1'), ('clean', 'quality_validation', '')";
    world.execute(never_sent, &[]).await;

    let report = run(&world, json!({"sweep": "stuck"})).await;

    assert_eq!((&report["stepsResent"], &report["errors"]), (&json!(4), &json!(1)));
    let sent = |job| bodies(&world, job);
    assert_eq!(sent("asset-thumbnail-generation"), [json!({"assetId": "clean"})]);
    assert_eq!(sent("asset-preview-generation"), [json!({"assetId": "clean"})]);
    assert!(sent("asset-metadata-extraction").is_empty(), "it was sent not long ago");
    assert_eq!(
        sent("asset-format-conversion"),
        [
            json!({"assetId": "clean", "variant": "720p"}),
            json!({"assetId": "clean", "variant": "size_400w"})
        ]
    );

    world
        .execute(
            "UPDATE asset_processing_steps SET enqueued_at = now() - interval '3 hours'",
            &[],
        )
        .await;
    run(&world, json!({"sweep": "stuck"})).await;
    assert_eq!(
        sent("asset-format-conversion").len(),
        3,
        "the smaller picture was sent three times before"
    );
}

#[tokio::test]
async fn a_step_whose_run_died_gets_another_message_two_hours_later() {
    let world = world("uploads_dead_steps").await;
    let steps = "UPDATE asset_processing_steps
                 SET status = 'RUNNING', enqueued_at = now() - interval '5 hours',
                     lease_until = now() - CASE step WHEN 'thumbnail' THEN interval '3 hours' ELSE interval '1 hour' END";
    world.execute(steps, &[]).await;

    assert_eq!(run(&world, json!({"sweep": "stuck"})).await["stepsResent"], 1);

    assert_eq!(
        bodies(&world, "asset-thumbnail-generation"),
        [json!({"assetId": "clean"})]
    );
}

#[tokio::test]
async fn the_steps_of_an_asset_that_may_not_be_processed_are_not_sent() {
    for (name, change) in [
        ("deleted", "deleted_at = now()"),
        ("rejected", "status = 'REJECTED', rejected_at = now()"),
        ("unscanned", "scan_status = 'ERROR'"),
    ] {
        let world = world(&format!("uploads_steps_{name}")).await;
        world
            .execute(&format!("UPDATE ip_assets SET {change} WHERE id = 'clean'"), &[])
            .await;
        assert_eq!(run(&world, json!({"sweep": "stuck"})).await["stepsResent"], 0, "{name}");
    }
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
async fn a_dry_run_counts_bytes_and_touches_no_object() {
    let world = world("uploads_dry").await;
    let before = world.storage.keys(BUCKET);

    let report = run(&world, json!({"dryRun": true})).await;

    assert_eq!(
        (
            &report["storageFreed"],
            &report["failedCleaned"],
            &report["infectedCleaned"]
        ),
        (&json!(8 + 8 + 16), &json!(2), &json!(2))
    );
    assert_eq!(world.storage.keys(BUCKET), before);
    assert!(!world.storage.calls().iter().any(|call| call.starts_with("DELETE")));
    assert_eq!(
        world
            .queue
            .names()
            .iter()
            .filter(|name| name.contains("asset-"))
            .count(),
        0
    );
}

#[tokio::test]
async fn one_sweep_alone_is_that_sweep_in_all_its_runs() {
    let world = world("uploads_alone").await;

    let report = run(&world, json!({"sweep": "infected", "batchSize": 1, "pages": 1})).await;

    assert_eq!(
        (
            &report["infectedCleaned"],
            &report["failedCleaned"],
            &report["abandonedCleaned"],
            &report["stuckRequeued"]
        ),
        (&json!(2), &json!(0), &json!(0), &json!(0))
    );
    assert!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'continued'")
            .await
            >= 2
    );
    assert_eq!(asset(&world, "abandoned_1").await.unwrap(), "DRAFT/PENDING");
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

#[tokio::test]
async fn what_is_no_message_is_dead_with_the_reason() {
    let world = World::new("uploads_bad_messages").await;
    let bad = [
        (json!({"sweep": "all"}), "unknown variant `all`"),
        (json!({"batchSize": 1001}), "`batchSize` is not between 1 and 1000"),
    ];
    world.refuses(JOB, &bad).await;
}
