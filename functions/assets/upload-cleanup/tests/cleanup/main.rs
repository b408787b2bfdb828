//! `upload-cleanup`, the built function on a real database and an S3 in memory.

mod abandoned;
mod purge;
mod storage;
mod stuck;
mod superseded;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
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
async fn what_is_no_message_is_dead_with_the_reason() {
    let world = World::new("uploads_bad_messages").await;
    let bad = [
        (json!({"sweep": "all"}), "unknown variant `all`"),
        (json!({"batchSize": 1001}), "`batchSize` is not between 1 and 1000"),
    ];
    world.refuses(JOB, &bad).await;
}
