//! `search-index-update` (spec: business, section 4) and the triggers before it, the built function on a real database.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::faults::Service;
use testkit::{World, faults};

const JOB: &str = "search-index-update";
const BULK: &str = "search-index-bulk-update";

fn message(entity: &str, id: &str) -> Value {
    json!({"entityType": entity, "entityId": id, "operation": "update"})
}

/// What a user finds: the ids, the best first.
async fn find(world: &World, table: &str, words: &str) -> Vec<String> {
    let sql = format!(
        "SELECT id FROM {table} WHERE deleted_at IS NULL AND search_vector @@ plainto_tsquery('yg_english', $1)
         ORDER BY ts_rank(search_vector, plainto_tsquery('yg_english', $1)) DESC, id"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(words)
        .fetch_all(&world.db)
        .await
        .expect("the table")
}

/// A write that no trigger sees.
async fn past_the_triggers(world: &World, sql: &str) {
    let sql = format!("SET LOCAL session_replication_role = replica; {sql}");
    let mut tx = world.db.begin().await.expect("the database");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut *tx)
        .await
        .expect("the database");
    tx.commit().await.expect("the database");
}

async fn wrong(world: &World) -> i64 {
    world
        .count("SELECT count(*) FROM search_vectors WHERE stored IS DISTINCT FROM fresh")
        .await
}

async fn reports(world: &World) -> Vec<(String, Value)> {
    sqlx::query_as(
        "SELECT status, coalesce(report, to_jsonb(reason)) FROM job_runs WHERE job = $1 ORDER BY started_at, run_key",
    )
    .bind(JOB)
    .fetch_all(&world.db)
    .await
    .expect("the database")
}

#[tokio::test]
async fn an_asset_is_found_by_its_tag_without_any_job_and_better_by_its_title() {
    let world = World::new("found_without_any_job").await;
    world.asset("tagged", "Golden Temple").await;
    world.asset("titled", "Sunset").await;
    world
        .execute(
            r#"UPDATE ip_assets SET metadata = '{"tags": ["sunset"]}' WHERE id = 'tagged'"#,
            &[],
        )
        .await;

    assert_eq!(find(&world, "ip_assets", "sunset").await, ["titled", "tagged"]);
    assert_eq!(find(&world, "ip_assets", "golden temples").await, ["tagged"]);
}

#[tokio::test]
async fn everything_is_found_by_what_its_table_lists_at_the_weight_listed() {
    let world = World::new("found_by_what_is_listed").await;
    world.brand("brand", "Maison Verte").await;
    world.project("project", "brand", "Spring campaign").await;
    world.asset("asset", "Night Garden").await;
    world.creator("creator", "Zoë").await;
    world.license("license", "asset", "brand").await;
    world.post("post", "Crème brûlée").await;
    for sql in [
        r#"UPDATE ip_assets SET description = 'Moonlit lilies', type = 'VIDEO', mime_type = 'video/mp4',
                                metadata = '{"tags": ["nocturne", 7, ["nested"], {"a": "deep"}]}'"#,
        r#"UPDATE creators SET bio = 'Lives in Lyon', specialties = '["photography"]'"#,
        "UPDATE projects SET description = 'Perfume', project_type = 'LICENSING'",
        r#"UPDATE licenses SET project_id = 'project', scope = '{"media": {"digital": true, "print": false, "ooh": "yes"},
                                                                 "geographic": {"territories": ["Germany"]}}'"#,
        r#"UPDATE posts SET excerpt = 'Caramel', tags = '["dessert"]', seo_keywords = 'sugar, torch',
                            content = '<p class="hidden">Slow <b>oven</b></p><script>var spy = 1</script><style>.red {}</style><!-- note -->'"#,
    ] {
        world.execute(sql, &[]).await;
    }

    let expected = [
        ("ip_assets", "A: garden night; B: lili moonlit nocturn; D: mp4 video"),
        ("creators", "A: zoe; B: live lyon photographi"),
        ("projects", "A: campaign spring; B: perfum; C: maison vert; D: licens"),
        (
            "licenses",
            "A: garden night; B: maison vert; C: campaign spring; D: digit exclus germani non",
        ),
        (
            "posts",
            "A: brule creme; B: caramel dessert; C: oven slow; D: sugar torch",
        ),
    ];
    for (table, lexemes) in expected {
        let sql = format!(
            "SELECT string_agg(weight || ': ' || lexemes, '; ' ORDER BY weight)
             FROM (SELECT weight, string_agg(DISTINCT lexeme, ' ') AS lexemes FROM {table}, unnest(search_vector), unnest(weights) AS weight
                   GROUP BY weight) AS weighted"
        );
        let found: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&world.db)
            .await
            .unwrap();
        assert_eq!(found, lexemes, "{table}");
    }
    assert_eq!(find(&world, "posts", "creme brulee").await, ["post"]);
}

#[tokio::test]
async fn a_row_of_megabytes_of_text_is_written_and_found_by_what_comes_first() {
    let world = World::new("megabytes_of_text").await;
    world.post("post", "Long").await;
    // Different words, and characters of two bytes at every place where the text may be cut.
    let words = "string_agg('é' || to_hex(i), ' ' ORDER BY i)";
    let update = format!(
        "UPDATE posts SET content = 'first ' || t || ' last', excerpt = 'early ' || t, seo_keywords = t, tags = jsonb_build_array(t)
         FROM (SELECT {words} AS t FROM generate_series(1, 200000) i) AS long"
    );
    world.execute(&update, &[]).await;

    for (word, count) in [("early", 1), ("first", 0), ("last", 0)] {
        assert_eq!(find(&world, "posts", word).await.len(), count, "{word}");
    }
    world.execute("UPDATE posts SET excerpt = NULL, tags = NULL", &[]).await;
    assert_eq!(find(&world, "posts", "first").await, ["post"]);
    assert_eq!(wrong(&world).await, 0);
    let cut: Vec<(String, i32, String)> = sqlx::query_as(
        "SELECT input, bytes, search_cut(input, bytes) FROM (VALUES ('aé', 2), ('aé', 3), ('😀😀', 7), ('é', 0)) AS t (input, bytes)",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    let cut: Vec<_> = cut.iter().map(|(.., cut)| cut.as_str()).collect();
    assert_eq!(cut, ["a", "aé", "😀", ""]);
}

#[tokio::test]
async fn a_title_changed_past_the_trigger_is_found_after_one_message_and_nothing_else_is_touched() {
    let world = World::new("changed_past_the_trigger").await;
    world.asset("asset", "Golden Temple").await;
    past_the_triggers(
        &world,
        "UPDATE ip_assets SET title = 'Silver Bridge', updated_at = '2020-01-01Z'",
    )
    .await;
    let version = "SELECT xmin::text::bigint FROM ip_assets";

    world.deliver(JOB, [message("asset", "asset")]).await;
    let written = world.count(version).await;
    world.deliver(JOB, [message("asset", "asset")]).await;

    assert_eq!(find(&world, "ip_assets", "silver").await, ["asset"]);
    assert_eq!(find(&world, "ip_assets", "golden").await, [""; 0]);
    assert_eq!(
        world
            .count("SELECT count(*) FROM ip_assets WHERE updated_at = '2020-01-01Z'")
            .await,
        1
    );
    assert_eq!(world.count(version).await, written);
    let done = |changed: bool| ("done".to_owned(), json!({"changed": changed}));
    assert_eq!(reports(&world).await, [done(true), done(false)]);
}

#[tokio::test]
async fn the_row_decides_and_not_the_message() {
    let world = World::new("the_row_decides").await;
    world.asset("asset", "Golden Temple").await;
    let found = async || find(&world, "ip_assets", "temple").await.len();
    let says = |operation: &str| json!({"entityType": "asset", "entityId": "asset", "operation": operation});

    world.execute("UPDATE ip_assets SET deleted_at = now()", &[]).await;
    let none = "SELECT count(*) FROM ip_assets WHERE search_vector IS NULL";
    assert_eq!(world.count(none).await, 1);
    world.deliver(JOB, [says("update"), says("create")]).await;
    assert_eq!(world.count(none).await, 1);
    past_the_triggers(&world, "UPDATE ip_assets SET search_vector = 'left:1 over:2'").await;
    world.deliver(JOB, [says("update")]).await;
    assert_eq!(world.count(none).await, 1);

    world.execute("UPDATE ip_assets SET deleted_at = NULL", &[]).await;
    assert_eq!(found().await, 1);
    world.deliver(JOB, [says("delete")]).await;
    assert_eq!(found().await, 1);

    world.execute("DELETE FROM ip_assets", &[]).await;
    world.deliver(JOB, [says("delete")]).await;
    assert_eq!(
        reports(&world).await.last(),
        Some(&("skipped".to_owned(), json!("gone")))
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_renamed_asset_or_project_asks_for_its_licences_until_they_are_right() {
    let world = World::new("asks_for_its_licences").await;
    world.brand("brand", "Maison Verte").await;
    world.project("project", "brand", "Spring").await;
    world.asset("asset", "Night Garden").await;
    world.asset("other", "Golden Temple").await;
    for (license, asset) in [("l1", "asset"), ("l2", "asset"), ("l3", "other"), ("l4", "other")] {
        world.license(license, asset, "brand").await;
    }
    world
        .execute("UPDATE licenses SET project_id = 'project' WHERE id = 'l3'", &[])
        .await;
    world
        .execute("UPDATE ip_assets SET title = 'Day Garden' WHERE id = 'asset'", &[])
        .await;
    world.execute("UPDATE projects SET name = 'Autumn'", &[]).await;
    assert_eq!(wrong(&world).await, 3);

    // One of them comes by itself, and one asset has nothing to ask for.
    world
        .deliver(
            JOB,
            [
                message("asset", "asset"),
                message("asset", "other"),
                message("project", "project"),
                message("license", "l1"),
            ],
        )
        .await;

    let asked: Vec<Value> = world.queued(BULK).iter().map(|message| message.json()).collect();
    assert_eq!(asked, [json!({"entityType": "license", "entityIds": ["l2", "l3"]})]);
    world.drain(BULK).await;
    assert_eq!(find(&world, "licenses", "day").await, ["l1", "l2"]);
    assert_eq!(find(&world, "licenses", "autumn").await, ["l3"]);
    assert_eq!(wrong(&world).await, 0);
    world
        .deliver(JOB, [message("asset", "asset"), message("project", "project")])
        .await;
    assert_eq!(world.queued(BULK), []);
}

#[tokio::test]
async fn one_row_that_cannot_be_written_takes_no_other_with_it() {
    let world = World::new("one_row_that_cannot").await;
    for id in ["a1", "a2", "a3"] {
        world.asset(id, "Golden Temple").await;
    }
    past_the_triggers(&world, "UPDATE ip_assets SET search_vector = NULL").await;
    world
        .execute(
            "ALTER TABLE ip_assets ADD CHECK (id <> 'a2' OR search_vector IS NULL) NOT VALID",
            &[],
        )
        .await;

    world
        .deliver(JOB, ["a1", "a2", "a3"].map(|id| message("asset", id)))
        .await;

    assert_eq!(find(&world, "ip_assets", "temple").await, ["a1", "a3"]);
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].attributes["reason"].contains("violates check constraint"),
        "{:?}",
        dead[0].attributes
    );
}

#[tokio::test]
async fn a_batch_of_a_hundred_over_all_tables_is_seven_statements_and_right_whatever_fails() {
    let report = faults::everywhere("a_batch_of_a_hundred", async |world| {
        world.brand("brand", "Maison Verte").await;
        world.creator("creator", "Zoë").await;
        world.post("post", "News").await;
        let rows = "INSERT INTO ip_assets (id, title, type, storage_key, file_size, created_by)
                        SELECT 'a' || i, 'Asset ' || i, 'IMAGE', 'k' || i, 1, 'usr_brand' FROM generate_series(1, 40) i;
                    INSERT INTO projects (id, brand_id, name, created_by) SELECT 'p' || i, 'brand', 'Project ' || i, 'usr_brand' FROM generate_series(1, 30) i;
                    INSERT INTO licenses (id, ip_asset_id, brand_id, project_id, license_type, start_date, end_date)
                        SELECT 'l' || i, 'a' || i, 'brand', 'p' || i, 'EXCLUSIVE', '2030-01-01', '2030-12-31' FROM generate_series(1, 29) i;
                    UPDATE ip_assets SET title = 'Renamed ' || id WHERE id IN ('a1', 'a29');
                    UPDATE licenses SET deleted_at = now() WHERE id = 'l2'";
        sqlx::raw_sql(rows).execute(&world.db).await.unwrap();
        past_the_triggers(world, "UPDATE ip_assets SET search_vector = NULL WHERE id < 'a2'; UPDATE posts SET title = 'Old'; UPDATE creators SET bio = 'New'").await;

        let messages = (1..=40).map(|i| message("asset", &format!("a{i}")));
        let messages = messages.chain((1..=30).map(|i| message("project", &format!("p{i}"))));
        // The last of the licences waits for its asset's follow-up.
        let messages = messages.chain((1..=28).map(|i| message("license", &format!("l{i}"))));
        let messages: Vec<_> = messages.chain([message("creator", "creator"), message("blog_post", "post")]).collect();
        assert_eq!(messages.len(), 100);
        world.deliver(JOB, messages).await;

        // The follow-up was sent, or a crash left it to the relay; after some crashes twice. A licence whose message was in the batch is
        // asked for only when the batch had to be handled message by message.
        let mut follow_ups: Vec<String> = sqlx::query_scalar("SELECT body FROM outbox").fetch_all(&world.db).await.unwrap();
        follow_ups.extend(world.queued(BULK).into_iter().map(|message| message.body));
        let mut asked: Vec<Value> = Vec::new();
        for body in follow_ups {
            let follow_up: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(follow_up["entityType"], "license");
            asked.extend(follow_up["entityIds"].as_array().unwrap().iter().cloned());
        }
        asked.retain(|id| id != "l1");
        asked.dedup();
        assert_eq!(asked, [Value::from("l29")]);
        assert_eq!(wrong(world).await, 1);
        let runs: BTreeMap<String, i64> = sqlx::query_as("SELECT status, count(*) FROM job_runs WHERE job = $1 GROUP BY 1")
            .bind(JOB).fetch_all(&world.db).await.unwrap().into_iter().collect();
        assert_eq!(runs, BTreeMap::from([("done".to_owned(), 100)]));
        assert_eq!(world.dead_letters(JOB), []);
        assert_eq!(world.queued(JOB), []);
    })
    .await;
    let statements: Vec<_> = report
        .calls
        .iter()
        .filter(|call| call.point.service == Service::Postgres && call.has_effect())
        .collect();
    assert!(statements.len() <= 7, "{statements:#?}");
}
