//! Whether a step is done at all, and how often.

use bytes::Bytes;
use serde_json::{Value, json};
use testkit::World;
use testkit::media::Studio;
use testkit::storage::Refusal;

use crate::{BUCKET, JOB, given, made, of_step, preview, row, step, world};

/// The smallest film that there is.
fn film() -> Bytes {
    Studio::new("ledger").make("-f lavfi -i testsrc2=s=32x32:r=5:d=1 -c:v libx264", "film.mp4")
}

async fn given_film(world: &World, id: &str) {
    given(world, id, "VIDEO", "video/mp4", film()).await;
}

async fn skipped_because(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT reason FROM job_runs WHERE status = 'skipped' ORDER BY started_at")
        .fetch_all(&world.db)
        .await
        .expect("the ledger")
}

#[tokio::test]
async fn a_message_that_comes_twice_does_nothing_more() {
    let world = world("preview_twice").await;
    given_film(&world, "a").await;

    preview(&world, "a").await;
    let calls = world.storage.calls().len();
    preview(&world, "a").await;

    assert_eq!(world.storage.calls().len(), calls);
    assert_eq!(skipped_because(&world).await, ["already_done"]);
    assert_eq!(of_step(&world, "a", "attempts::text").await, "1");
}

#[tokio::test]
async fn what_is_asked_for_by_name_is_made_again_once() {
    let world = world("preview_forced").await;
    given_film(&world, "a").await;
    preview(&world, "a").await;
    let first = row(&world, "a").await;

    let again = json!({"assetId": "a", "force": true, "requestId": "r-17"});
    world.deliver(JOB, [again.clone(), again]).await;

    assert_eq!(
        of_step(&world, "a", "attempts || ' ' || last_request_id").await,
        "2 r-17"
    );
    let second = row(&world, "a").await;
    assert_eq!(
        first["id"], second["id"],
        "the same rules make the same file, whose row stays"
    );
    assert_eq!(made(&world).len(), 1);
    assert_eq!(world.count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn a_preview_by_other_rules_is_superseded_when_the_new_one_is_there() {
    let world = world("preview_superseded").await;
    given_film(&world, "a").await;
    world.storage.put(BUCKET, "derived/a/old-v0/preview.mp4", "old");
    world
        .execute(
            "INSERT INTO asset_variants (asset_id, kind, name, storage_key, file_size, params_version)
             VALUES ('a', 'preview', 'preview', 'derived/a/old-v0/preview.mp4', 3, 0)",
            &[],
        )
        .await;

    preview(&world, "a").await;

    let new = row(&world, "a").await;
    assert_eq!(new["params_version"], 1);
    assert!(new["storage_key"].as_str().unwrap().ends_with("-v1/preview.mp4"));
    let old = "SELECT count(*) FROM asset_variants WHERE params_version = 0 AND superseded_at IS NOT NULL";
    assert_eq!(world.count(old).await, 1);
    assert_eq!(made(&world).len(), 2, "its object stays for those who have its address");
}

#[tokio::test]
async fn an_asset_that_may_not_be_processed_is_left_alone() {
    let world = world("preview_ineligible").await;
    for (id, change) in [
        ("deleted", "deleted_at = now()"),
        ("infected", "scan_status = 'INFECTED'"),
        ("unscannable", "scan_status = 'ERROR'"),
        ("rejected", "status = 'REJECTED'"),
    ] {
        given_film(&world, id).await;
        world
            .execute(&format!("UPDATE ip_assets SET {change} WHERE id = $1"), &[id])
            .await;
        preview(&world, id).await;
    }
    let reasons = ["ASSET_DELETED", "NOT_CLEAN", "NOT_CLEAN", "REJECTED"];
    assert_eq!(skipped_because(&world).await, reasons);
    assert_eq!(step(&world, "rejected").await, "SKIPPED REJECTED");
    assert_eq!(made(&world), [""; 0]);
}

#[tokio::test]
async fn an_asset_that_is_still_scanned_is_waited_for_and_one_that_is_missing_is_not_for_ever() {
    let world = world("preview_waits").await;
    given_film(&world, "a").await;
    world
        .execute("UPDATE ip_assets SET scan_status = 'SCANNING'", &[])
        .await;
    world.send(JOB, [json!({"assetId": "a"}), json!({"assetId": "missing"})]);

    world.pump(JOB).await;
    assert_eq!(step(&world, "a").await, "PENDING");
    world.execute("UPDATE ip_assets SET scan_status = 'CLEAN'", &[]).await;
    world.drain(JOB).await;

    assert_eq!(step(&world, "a").await, "SUCCEEDED");
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].attributes["reason"].contains("there is no such asset"),
        "{dead:?}"
    );
}

#[tokio::test]
async fn a_step_that_somebody_is_at_is_waited_for_and_taken_over_when_its_lease_has_ended() {
    let world = world("preview_lease").await;
    given_film(&world, "a").await;
    let held = "UPDATE asset_processing_steps SET status = 'RUNNING', attempts = 1, lease_token = gen_random_uuid(),
                lease_until = now() + interval '5 minutes'";
    world.execute(held, &[]).await;
    world.send(JOB, [json!({"assetId": "a"})]);

    world.pump(JOB).await;
    assert_eq!(step(&world, "a").await, "RUNNING");
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'deferred'")
            .await,
        1
    );
    world.drain(JOB).await;

    assert_eq!(step(&world, "a").await, "SUCCEEDED");
    assert_eq!(of_step(&world, "a", "attempts::text").await, "2");
}

#[tokio::test]
async fn other_bytes_than_those_that_were_scanned_are_not_opened() {
    let world = world("preview_changed").await;
    given_film(&world, "a").await;
    let key = world.storage.keys(BUCKET).remove(0);
    world.storage.put(BUCKET, &key, "malware");

    preview(&world, "a").await;

    assert_eq!(step(&world, "a").await, "FAILED SOURCE_CHANGED");
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE scan_status = 'PENDING'")
            .await,
        1
    );
    let scans: Vec<Value> = world
        .queued("asset-virus-scan")
        .iter()
        .map(|message| message.json())
        .collect();
    assert_eq!(scans, [json!({"assetId": "a", "reason": "source_changed"})]);
    assert_eq!(made(&world), [""; 0]);
}

#[tokio::test]
async fn what_was_never_promoted_is_scanned_first() {
    let world = world("preview_legacy").await;
    given_film(&world, "a").await;
    world
        .execute("UPDATE ip_assets SET storage_key = 'u/a/film.mp4'", &[])
        .await;

    preview(&world, "a").await;

    assert_eq!(
        of_step(
            &world,
            "a",
            "concat_ws(' ', status, reason_code, retryable, enqueued_at IS NULL)"
        )
        .await,
        "FAILED NOT_PROMOTED t t",
        "the next verdict sends its message"
    );
    assert_eq!(world.queued("asset-virus-scan").len(), 1);
    assert!(!world.storage.calls().iter().any(|call| call.starts_with("GET")));
}

#[tokio::test]
async fn a_key_that_leads_elsewhere_is_a_dead_letter() {
    let world = world("preview_key").await;
    for (id, key) in [("a", "quarantine/a/ff"), ("b", "assets/b/../../x")] {
        given_film(&world, id).await;
        world
            .execute("UPDATE ip_assets SET storage_key = $1 WHERE id = $2", &[key, id])
            .await;
    }
    let bad = ["a", "b"].map(|id| (json!({ "assetId": id }), "INVALID_KEY"));
    world.refuses(JOB, &bad).await;
    assert_eq!(step(&world, "a").await, "FAILED INVALID_KEY");
}

#[tokio::test]
async fn a_missing_original_is_looked_for_twice_and_a_redrive_finds_it() {
    let world = world("preview_missing").await;
    given(&world, "a", "VIDEO", "video/mp4", "x").await;
    let film = film();
    let sha256 = crate::sha256(&world, &film).await;
    world
        .execute(
            "UPDATE ip_assets SET storage_key = 'assets/a/new/original.mp4', content_sha256 = $1",
            &[&sha256],
        )
        .await;

    preview(&world, "a").await;
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(dead[0].attributes["reason"].contains("OBJECT_MISSING"), "{dead:?}");
    assert_eq!(of_step(&world, "a", "status || ' ' || retryable").await, "FAILED true");

    world.storage.put(BUCKET, "assets/a/new/original.mp4", film);
    preview(&world, "a").await;
    assert_eq!(step(&world, "a").await, "SUCCEEDED");
}

#[tokio::test]
async fn a_storage_that_fails_is_tried_again_and_one_that_is_slow_costs_no_attempt() {
    let world = world("preview_storage").await;
    given_film(&world, "a").await;
    world.storage.fail_next(1, Refusal::InternalError);
    world.send(JOB, [json!({"assetId": "a"})]);
    world.pump(JOB).await;
    assert_eq!(step(&world, "a").await, "PENDING");
    world.storage.fail_next(3, Refusal::SlowDown);
    world.drain(JOB).await;
    assert_eq!(step(&world, "a").await, "SUCCEEDED");

    given_film(&world, "b").await;
    world.storage.fail_next(10, Refusal::InternalError);
    preview(&world, "b").await;
    assert_eq!(of_step(&world, "b", "status || ' ' || retryable").await, "FAILED true");
    assert_eq!(world.dead_letters(JOB).len(), 1);
}

#[tokio::test]
async fn the_last_step_that_an_asset_needs_ends_its_processing() {
    let world = world("preview_completes").await;
    given_film(&world, "a").await;
    world.execute("UPDATE ip_assets SET status = 'PROCESSING'", &[]).await;
    preview(&world, "a").await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE status = 'PROCESSING'")
            .await,
        1,
        "nobody needs a preview"
    );

    world
        .execute(
            "UPDATE asset_processing_steps SET required = true, status = 'PENDING'",
            &[],
        )
        .await;
    world
        .execute(
            "INSERT INTO asset_processing_steps (asset_id, step, status, required) VALUES ('a', 'thumbnail', 'FAILED', true), ('a', 'metadata', 'PENDING', true)",
            &[],
        )
        .await;
    preview(&world, "a").await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE status = 'PROCESSING'")
            .await,
        1,
        "another one is open"
    );

    world
        .execute(
            "UPDATE asset_processing_steps SET status = CASE step WHEN 'preview' THEN 'PENDING' ELSE 'FAILED' END",
            &[],
        )
        .await;
    preview(&world, "a").await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE status = 'REVIEW' AND processing_completed_at IS NOT NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn what_is_not_the_asset_any_more_when_its_preview_is_there_is_not_recorded() {
    let world = world("preview_overtaken").await;
    let film = Studio::new("overtaken").make(
        "-f lavfi -i testsrc2=s=1280x720:r=30:d=20 -c:v libx264 -preset ultrafast",
        "film.mp4",
    );
    given(&world, "a", "VIDEO", "video/mp4", film).await;
    world.send(JOB, [json!({"assetId": "a"})]);
    let infected = async {
        // While it is cut.
        while step(&world, "a").await == "PENDING" {}
        world
            .execute("UPDATE ip_assets SET scan_status = 'INFECTED' WHERE id = 'a'", &[])
            .await;
    };
    tokio::join!(world.drain(JOB), infected);

    assert_eq!(step(&world, "a").await, "SKIPPED NOT_CLEAN");
    assert_eq!(world.count("SELECT count(*) FROM asset_variants").await, 0);
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE preview_key IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn what_a_killed_function_has_left_is_removed_by_the_next_one() {
    let world = world("preview_leftovers").await;
    let studio = Studio::new("leftovers");
    let left = studio.folder().join("job-left");
    std::fs::create_dir(&left).unwrap();
    let lock = std::fs::File::create(left.join("lock")).unwrap();
    lock.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(120))
        .unwrap();
    drop(lock);
    std::fs::write(left.join("in.mp4"), "content").unwrap();
    world.set("TMPDIR", studio.folder().display().to_string());
    given_film(&world, "a").await;

    preview(&world, "a").await;

    assert!(!left.exists());
}

#[tokio::test]
async fn what_is_no_message_is_dead_with_the_reason() {
    let world = world("preview_bad_messages").await;
    let bad = [
        (json!({"assetId": "../a"}), "an id is 1 to 64"),
        (json!({"assetId": "a", "force": true}), "`force` has no `requestId`"),
        (
            json!({"mode": "bulk", "specVersion": 1, "pageSize": 0}),
            "`pageSize` is not between 1 and 500",
        ),
        (json!([]), "not an object"),
    ];
    world.refuses(JOB, &bad).await;
}
