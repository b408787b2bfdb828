//! Scans and steps whose message was lost.

use std::time::Duration;

use serde_json::json;

use crate::{asset, bodies, has_objects, run, world};

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
