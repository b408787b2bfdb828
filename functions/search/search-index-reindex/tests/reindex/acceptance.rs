//! The acceptance checks, and how it ends when it is held up.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::world::Job;
use testkit::{World, faults};

use crate::{JOB, wrong};

/// Rows that were there before the triggers: `assets`, and one of everything else.
async fn old_rows(world: &World, assets: i32) {
    world.brand("brand", "Maison Verte").await;
    sqlx::query(
        "INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by)
         SELECT 'a' || lpad(i::text, 3, '0'), 'Asset ' || i, 'IMAGE', 'k' || i, 1, 'usr_brand' FROM generate_series(1, $1) i",
    )
    .bind(assets)
    .execute(&world.db)
    .await
    .expect("the database");
    world.creator("creator", "Zoë").await;
    world.project("project", "brand", "Spring").await;
    world.license("license", "a001", "brand").await;
    world.post("post", "News").await;
    for table in ["ip_assets", "creators", "projects", "licenses", "posts"] {
        world
            .execute(&format!("UPDATE {table} SET search_vector = NULL"), &[])
            .await;
    }
}

/// Status, reason and report of each run, the first first.
async fn runs(world: &World) -> Vec<(String, Value)> {
    sqlx::query_as(
        "SELECT status, coalesce(to_jsonb(reason), report - 'runId', 'null') FROM job_runs WHERE job = $1 ORDER BY first_seen_at, run_key",
    )
    .bind(JOB)
    .fetch_all(&world.db)
    .await
    .expect("the database")
}

fn completed(processed: i64, changed: i64, cleared: i64) -> (String, Value) {
    let report = json!({"status": "COMPLETED", "processed": processed, "changed": changed, "cleared": cleared, "errors": 0, "failed": []});
    ("done".to_owned(), report)
}

async fn wrong_assets(world: &World) -> i64 {
    world
        .count("SELECT count(*) FROM search_vectors WHERE entity = 'asset' AND stored IS DISTINCT FROM fresh")
        .await
}

/// How often the statistics of assets were made anew.
async fn analyzed(world: &World) -> i64 {
    world
        .count("SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'ip_assets'")
        .await
}

/// A reindex of the assets in pages of ten.
async fn reindex_assets(world: &World) {
    world
        .deliver(JOB, [json!({"entityType": "asset", "batchSize": 10})])
        .await;
}

/// Assets whose vectors are right, and which the database has heard of.
async fn right_rows(world: &World, assets: i32) {
    old_rows(world, assets).await;
    sqlx::raw_sql(
        "UPDATE ip_assets SET search_vector = search_vector_of(ip_assets); SELECT pg_stat_force_next_flush()",
    )
    .execute(&world.db)
    .await
    .expect("the database");
    sqlx::raw_sql("ANALYZE ip_assets")
        .execute(&world.db)
        .await
        .expect("the database");
}

#[tokio::test]
async fn everything_that_is_wrong_is_written_and_nothing_else() {
    let world = World::new("everything_that_is_wrong").await;
    old_rows(&world, 25).await;
    world.deliver(JOB, [json!({"batchSize": 10})]).await;
    assert_eq!(runs(&world).await, [completed(29, 29, 0)]);
    assert_eq!(wrong(&world).await, 0);

    world
        .execute("UPDATE ip_assets SET deleted_at = now() WHERE id = 'a003'", &[])
        .await;
    world
        .execute(
            "UPDATE ip_assets SET search_vector = 'left:1' WHERE id IN ('a003', 'a004')",
            &[],
        )
        .await;
    let versions = "SELECT sum(xmin::text::bigint)::bigint FROM ip_assets WHERE id NOT IN ('a003', 'a004')";
    let before = world.count(versions).await;
    world.deliver(JOB, [json!({"entityType": "asset"})]).await;
    assert_eq!(runs(&world).await[1], completed(25, 1, 1));
    assert_eq!((wrong(&world).await, world.count(versions).await), (0, before));

    // With a slot it is the weekly run, which is done once.
    let weekly = json!({"asOf": "2025-10-19T03:00:00Z", "schedule": "weekly"});
    world.deliver(JOB, [weekly.clone(), weekly]).await;
    assert_eq!(runs(&world).await[2..], [completed(29, 0, 0)]);
    assert_eq!(
        world
            .count("SELECT count(*) FROM search_reindex_runs WHERE status = 'COMPLETED'")
            .await,
        3
    );
}

#[tokio::test]
async fn killed_after_its_first_page_it_goes_on_from_there_and_another_one_meanwhile_is_skipped() {
    let world = World::new("killed_after_its_first_page").await;
    world.scale(JOB, 2);
    old_rows(&world, 250).await;
    world
        .execute(
            "UPDATE ip_assets SET search_vector = search_vector_of(ip_assets) WHERE id < 'a100'",
            &[],
        )
        .await;
    let reindex = json!({"entityType": "asset", "batchSize": 100});
    // A user's transaction on a row of the second page holds it up.
    let mut user = world.db.begin().await.unwrap();
    sqlx::query("UPDATE ip_assets SET title = title WHERE id = 'a150'")
        .execute(&mut *user)
        .await
        .unwrap();

    world.send(JOB, [reindex.clone()]);
    let (_, ()) = tokio::join!(world.pump(JOB), async {
        let at = |after: &str| {
            format!("SELECT count(*) FROM search_reindex_runs WHERE cursor_id = '{after}' AND processed = 100")
        };
        while world.count(&at("a100")).await == 0 {
            tokio::task::yield_now().await;
        }
        let progress: Value = loop {
            let noted = sqlx::query_scalar("SELECT progress FROM job_runs WHERE job = $1 AND status = 'running'");
            if let Some(progress) = noted.bind(JOB).fetch_one(&world.db).await.unwrap() {
                break progress;
            }
        };
        assert_eq!(
            (&progress["entity"], &progress["done"], &progress["total"]),
            (&json!("asset"), &json!(100), &json!(250))
        );
        assert!(
            progress["perSecond"].as_i64() > Some(0) && progress["secondsLeft"].is_i64(),
            "{progress}"
        );
        let other = world.invoke(JOB, reindex.clone()).await.unwrap();
        assert_eq!(other, json!({"settled": true}));
        world.function(JOB).await.kill().await;
    });
    user.rollback().await.unwrap();
    assert_eq!(
        world
            .count("SELECT count(*) FROM search_reindex_runs WHERE processed = 100")
            .await,
        1
    );
    world.drain(JOB).await;

    assert_eq!(wrong_assets(&world).await, 0);
    let runs = runs(&world).await;
    assert_eq!(runs[0], completed(250, 151, 0));
    let reason = runs[1].1.as_str().unwrap();
    assert!(
        runs[1].0 == "skipped" && reason.starts_with("already_running: reindex "),
        "{reason}"
    );
    assert!(reason.ends_with("is at asset, 100 of 250 rows"), "{reason}");
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn what_does_not_fit_into_one_run_goes_on_in_the_next_and_an_old_message_goes_nowhere() {
    let world = World::new("does_not_fit").await;
    old_rows(&world, 25).await;
    // Its time is up after a page that takes this long.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
                CREATE TRIGGER slow BEFORE UPDATE ON ip_assets FOR EACH ROW WHEN (NEW.id = 'a011') EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&world.db).await.unwrap();
    let timeout = Duration::from_millis(180_900);
    world.define(
        JOB,
        Job {
            timeout,
            ..Job::of_catalog(JOB)
        },
    );

    world.send(JOB, [json!({"batchSize": 10})]);
    world.pump(JOB).await;

    let statuses: Vec<_> = runs(&world).await.into_iter().map(|(status, _)| status).collect();
    let (last, before) = statuses.split_last().unwrap();
    assert!(
        last == "done" && !before.is_empty() && before.iter().all(|status| status == "continued"),
        "{statuses:?}"
    );
    assert_eq!(
        (runs(&world).await[before.len()].clone(), wrong(&world).await),
        (completed(29, 29, 0), 0)
    );
    let id: String = sqlx::query_scalar("SELECT id FROM search_reindex_runs")
        .fetch_one(&world.db)
        .await
        .unwrap();
    let old = json!({"batchSize": 10, "runId": id, "cursor": {"entityType": "asset", "after": "a020"}});
    world.deliver(JOB, [old]).await;
    let stale = "stale: the reindex has gone on from here, or is over";
    assert_eq!(runs(&world).await[statuses.len()], ("skipped".to_owned(), json!(stale)));
}

#[tokio::test]
async fn statistics_are_renewed_when_much_was_wrong() {
    let world = World::new("much_was_wrong").await;
    old_rows(&world, 40).await;
    world.deliver(JOB, [json!({"entityType": "asset"})]).await;
    assert_eq!(runs(&world).await, [completed(40, 40, 0)]);
    assert_eq!(analyzed(&world).await, 1);
}

#[tokio::test]
async fn pages_in_which_little_is_wrong_are_one_commit_and_leave_the_statistics() {
    let world = World::new("one_commit").await;
    right_rows(&world, 100).await;
    sqlx::raw_sql(
        "CREATE TABLE commits AS SELECT 0 AS n WHERE false;
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO commits VALUES (NEW.processed); RETURN NEW; END $$;
         CREATE TRIGGER noted AFTER UPDATE OF processed ON search_reindex_runs FOR EACH ROW EXECUTE FUNCTION noted();
         UPDATE ip_assets SET search_vector = 'left:1' WHERE id IN ('a003', 'a013')",
    )
    .execute(&world.db)
    .await
    .unwrap();
    reindex_assets(&world).await;

    assert_eq!(runs(&world).await, [completed(100, 2, 0)]);
    let commits: Vec<i32> = sqlx::query_scalar("SELECT n FROM commits")
        .fetch_all(&world.db)
        .await
        .unwrap();
    assert!(commits.len() < 10 && commits.last() == Some(&100), "{commits:?}");
    assert_eq!(analyzed(&world).await, 1, "by the test");
}

#[tokio::test]
async fn a_row_that_is_refused_in_pages_that_are_written_together_is_the_only_one_left_behind() {
    let world = World::new("refused_together").await;
    right_rows(&world, 100).await;
    sqlx::raw_sql(
        "UPDATE ip_assets SET search_vector = 'left:1' WHERE id IN ('a003', 'a013');
         ALTER TABLE ip_assets ADD CHECK (id <> 'a013' OR search_vector = 'left:1') NOT VALID",
    )
    .execute(&world.db)
    .await
    .unwrap();
    reindex_assets(&world).await;

    let report =
        json!({"status": "PARTIAL", "processed": 100, "changed": 1, "cleared": 0, "errors": 1, "failed": ["a013"]});
    assert_eq!(runs(&world).await, [("done".to_owned(), report)]);
    assert_eq!(wrong_assets(&world).await, 1);
}

#[tokio::test]
async fn one_that_has_not_moved_for_half_an_hour_gives_way() {
    let world = World::new("gives_way").await;
    old_rows(&world, 1).await;
    let dead = "INSERT INTO search_reindex_runs (run_key, batch_size, current_entity, heartbeat_at) VALUES ('dead', 100, 'project', now() - interval '29 minutes')";
    world.execute(dead, &[]).await;

    world.deliver(JOB, [json!({})]).await;
    assert_eq!(runs(&world).await[0].0, "skipped");
    world.advance_minutes(2).await;
    world.deliver(JOB, [json!({})]).await;

    assert_eq!(runs(&world).await[1], completed(5, 5, 0));
    let statuses = "SELECT string_agg(status, ' ' ORDER BY started_at) FROM search_reindex_runs";
    let statuses: String = sqlx::query_scalar(statuses).fetch_one(&world.db).await.unwrap();
    assert_eq!(statuses, "FAILED COMPLETED");
}

#[tokio::test]
async fn a_row_that_cannot_be_written_is_named_and_left_behind() {
    let world = World::new("named_and_left_behind").await;
    old_rows(&world, 25).await;
    world
        .execute(
            "ALTER TABLE ip_assets ADD CHECK (id <> 'a012' OR search_vector IS NULL) NOT VALID",
            &[],
        )
        .await;

    world.deliver(JOB, [json!({"batchSize": 10})]).await;

    let report =
        json!({"status": "PARTIAL", "processed": 29, "changed": 28, "cleared": 0, "errors": 1, "failed": ["a012"]});
    assert_eq!(runs(&world).await, [("done".to_owned(), report)]);
    assert_eq!(wrong(&world).await, 1);
}

#[tokio::test]
async fn every_row_is_written_and_counted_once_whatever_fails() {
    faults::everywhere("counted_once", async |world| {
        // The same calls in the same order every time: two pages at once would race for them.
        world.define(
            JOB,
            Job {
                connections: 2,
                ..Job::of_catalog(JOB)
            },
        );
        old_rows(world, 22).await;
        // Of the second page one row is wrong, and of the third none: these are written together.
        world
            .execute(
                "UPDATE ip_assets SET search_vector = search_vector_of(ip_assets) WHERE id > 'a011'",
                &[],
            )
            .await;

        // The second one finds nothing that is wrong.
        for _ in 0..2 {
            reindex_assets(world).await;
        }

        assert_eq!(runs(world).await, [completed(22, 11, 0), completed(22, 0, 0)]);
        assert_eq!(wrong_assets(world).await, 0);
        assert_eq!(world.count("SELECT count(*) FROM search_reindex_runs").await, 2);
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
}
