//! `search-index-bulk-update` (spec: business, section 4), the built function on a real database.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::world::Job;
use testkit::{World, faults};

const JOB: &str = "search-index-bulk-update";

/// Licences whose vectors are wrong.
async fn stale(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM search_vectors WHERE stored IS DISTINCT FROM fresh ORDER BY id")
        .fetch_all(&world.db)
        .await
        .expect("the database")
}

async fn report(world: &World) -> Value {
    sqlx::query_scalar("SELECT report FROM job_runs WHERE job = $1 ORDER BY started_at LIMIT 1")
        .bind(JOB)
        .fetch_one(&world.db)
        .await
        .expect("the database")
}

/// Assets with old vectors.
async fn stale_assets(world: &World, count: i32) {
    sqlx::query(
        "INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by)
         SELECT 'a' || lpad(i::text, 3, '0'), 'Asset', 'IMAGE', 'k' || i, 1, 'usr_brand' FROM generate_series(1, $1) i",
    )
    .bind(count)
    .execute(&world.db)
    .await
    .expect("the database");
    world.execute("UPDATE ip_assets SET search_vector = NULL", &[]).await;
}

/// Two brands with a project each, and three licences and one.
async fn brands(world: &World) {
    world.asset("asset", "Night Garden").await;
    for (brand, project) in [("verte", "p1"), ("bleue", "p2")] {
        world.brand(brand, &format!("Maison {brand}")).await;
        world.project(project, brand, "Spring").await;
    }
    for (license, brand) in [("l1", "verte"), ("l2", "verte"), ("l3", "verte"), ("l4", "bleue")] {
        world.license(license, "asset", brand).await;
    }
}

#[tokio::test]
async fn a_renamed_brand_is_found_in_its_licences_and_projects_after_one_message_and_others_are_untouched() {
    let world = World::new("a_renamed_brand").await;
    brands(&world).await;
    world
        .execute("UPDATE brands SET company_name = 'Nouvelle' || id", &[])
        .await;

    world
        .deliver(JOB, [json!({"entityType": "license", "filter": {"brandId": "verte"}})])
        .await;

    let found = "SELECT count(*) FROM licenses WHERE search_vector @@ plainto_tsquery('yg_english', 'nouvelleverte')";
    assert_eq!(world.count(found).await, 3);
    assert_eq!(stale(&world).await, ["l4", "p2"]);
    assert_eq!(
        report(&world).await,
        json!({"processed": 3, "changed": 3, "cleared": 0, "gone": 0, "failed": []})
    );
    // The licences asked for the projects, and these for nothing.
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 2);
    world
        .deliver(JOB, [json!({"entityType": "project", "filter": {"brandId": "bleue"}})])
        .await;
    assert_eq!(stale(&world).await, [""; 0]);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 4);
}

#[tokio::test]
async fn a_filter_by_asset_or_project_takes_what_belongs_to_it_and_no_more() {
    let world = World::new("a_filter_by_asset").await;
    brands(&world).await;
    world.asset("other", "Golden Temple").await;
    world.license("l5", "other", "verte").await;
    world
        .execute("UPDATE licenses SET project_id = 'p1' WHERE id IN ('l3', 'l5')", &[])
        .await;
    world
        .execute("UPDATE ip_assets SET project_id = 'p1' WHERE id = 'other'", &[])
        .await;
    world.execute("UPDATE licenses SET search_vector = NULL", &[]).await;
    world.execute("UPDATE ip_assets SET search_vector = NULL", &[]).await;

    for (entity, filter, left) in [
        (
            "license",
            json!({"ipAssetId": "other"}),
            vec!["asset", "l1", "l2", "l3", "l4", "other"],
        ),
        (
            "license",
            json!({"projectId": "p1"}),
            vec!["asset", "l1", "l2", "l4", "other"],
        ),
        ("asset", json!({"projectId": "p1"}), vec!["asset", "l1", "l2", "l4"]),
    ] {
        world
            .deliver(JOB, [json!({"entityType": entity, "filter": filter})])
            .await;
        assert_eq!(stale(&world).await, left);
    }
}

#[tokio::test]
async fn odd_tags_unknown_ids_and_a_row_that_cannot_be_written_stop_nothing() {
    let world = World::new("stop_nothing").await;
    world.brand("brand", "Maison Verte").await;
    stale_assets(&world, 120).await;
    world
        .execute("ALTER TABLE ip_assets DISABLE TRIGGER ip_assets_search", &[])
        .await;
    for (n, tags) in [r#"{"a": 1}"#, "7", "null", r#"[[["deep"]]]"#, r#""text""#]
        .iter()
        .enumerate()
    {
        let update = format!(
            "UPDATE ip_assets SET metadata = jsonb_build_object('tags', '{tags}'::jsonb) WHERE id = 'a{:03}'",
            40 + n
        );
        world.execute(&update, &[]).await;
    }
    world
        .execute(
            "UPDATE ip_assets SET metadata = '[1]', deleted_at = now(), search_vector = 'left:1' WHERE id = 'a050'",
            &[],
        )
        .await;
    world
        .execute(
            "ALTER TABLE ip_assets ADD CHECK (id <> 'a070' OR search_vector IS NULL) NOT VALID",
            &[],
        )
        .await;
    let ids: Vec<_> = (1..=130).chain([7]).map(|i| format!("a{i:03}")).collect();

    world
        .deliver(JOB, [json!({"entityType": "asset", "entityIds": ids})])
        .await;

    assert_eq!(stale(&world).await, ["a070"]);
    assert_eq!(
        report(&world).await,
        json!({"processed": 130, "changed": 118, "cleared": 1, "gone": 10, "failed": ["a070"]})
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE search_vector @@ 'asset' AND metadata ->> 'tags' LIKE '%a%'")
            .await,
        1
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn what_does_not_fit_into_one_run_is_done_by_the_next_ones() {
    let world = World::new("does_not_fit").await;
    world.brand("brand", "Maison Verte").await;
    world.project("project", "brand", "Spring").await;
    stale_assets(&world, 120).await;
    world.execute("UPDATE ip_assets SET project_id = 'project'", &[]).await;
    // Its time is up after a page that takes this long.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
                CREATE TRIGGER slow BEFORE UPDATE ON ip_assets FOR EACH ROW WHEN (NEW.id IN ('a001', 'a051')) EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&world.db).await.unwrap();
    let timeout = Duration::from_millis(30_900);
    world.define(
        JOB,
        Job {
            timeout,
            ..Job::of_catalog(JOB)
        },
    );

    for message in [
        json!({"entityType": "asset", "filter": {"projectId": "project"}}),
        json!({"entityType": "asset", "entityIds": (1..=120).map(|i| format!("a{i:03}")).collect::<Vec<_>>()}),
    ] {
        world.execute("UPDATE ip_assets SET search_vector = NULL", &[]).await;
        world.execute("DELETE FROM job_runs", &[]).await;
        world.deliver(JOB, [message]).await;
        assert_eq!(stale(&world).await, [""; 0]);
        let statuses: Vec<String> = sqlx::query_scalar("SELECT status FROM job_runs ORDER BY started_at")
            .fetch_all(&world.db)
            .await
            .unwrap();
        let (last, before) = statuses.split_last().unwrap();
        assert!(
            last == "done" && before.len() >= 2 && before.iter().all(|status| status == "continued"),
            "{statuses:?}"
        );
    }
}

#[tokio::test]
async fn a_renamed_asset_is_found_in_its_licences_whatever_fails() {
    faults::everywhere("a_renamed_asset_whatever_fails", async |world| {
        brands(world).await;
        world.execute("UPDATE ip_assets SET title = 'Day Garden'", &[]).await;

        world
            .deliver(
                JOB,
                [json!({"entityType": "license", "filter": {"ipAssetId": "asset"}})],
            )
            .await;

        assert_eq!(stale(world).await, [""; 0]);
        assert_eq!(
            world
                .count("SELECT count(*) FROM job_runs WHERE status <> 'done'")
                .await,
            0
        );
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
}
