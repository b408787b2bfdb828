//! `analytics-enrich-event` (spec: business, section 3), the built function on a real database.

use serde_json::{Value, json};
use testkit::{World, faults};

const JOB: &str = "analytics-enrich-event";
const AT: &str = "2025-10-17T12:00:00Z";
const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

async fn enrich(world: &World, ids: &[&str]) {
    world.deliver(JOB, ids.iter().map(|id| json!({ "eventId": id }))).await;
}

async fn event(world: &World, id: &str) -> Value {
    world
        .rows(&format!("SELECT * FROM events WHERE id = '{id}'"))
        .await
        .remove(0)
}

/// A brand's project, an asset of two creators, and a licence on it.
async fn entities(world: &World) {
    let (ann, bob, brand) = (
        world.user("Ann").await,
        world.user("Bob").await,
        world.user("Brand").await,
    );
    for (sql, values) in [
        ("INSERT INTO brands (id, user_id, company_name) VALUES ('brd_1', $1, 'Brand')", vec![&brand]),
        ("INSERT INTO projects (id, brand_id, name, created_by) VALUES ('prj_1', 'brd_1', 'Project', $1)", vec![&brand]),
        ("INSERT INTO creators (id, user_id, stage_name) VALUES ('crt_ann', $1, 'Ann'), ('crt_bob', $2, 'Bob')", vec![&ann, &bob]),
        (
            "INSERT INTO ip_assets (id, project_id, title, type, storage_key, file_size, status, created_by)
             VALUES ('ast_1', 'prj_1', 'Golden Temple', 'IMAGE', 'k', 1, 'PUBLISHED', $1)",
            vec![&ann],
        ),
        (
            "INSERT INTO ip_ownerships (ip_asset_id, creator_id, share_bps, start_date)
             VALUES ('ast_1', 'crt_ann', 4000, '2025-01-01'), ('ast_1', 'crt_bob', 6000, '2025-01-01')",
            vec![],
        ),
        (
            "INSERT INTO licenses (id, ip_asset_id, brand_id, license_type, status, start_date, end_date, fee_cents, rev_share_bps)
             VALUES ('lic_1', 'ast_1', 'brd_1', 'EXCLUSIVE', 'ACTIVE', '2025-01-01', '2025-12-31', 5000, 250)",
            vec![],
        ),
    ] {
        let values: Vec<&str> = values.into_iter().map(String::as_str).collect();
        world.execute(sql, &values).await;
    }
}

#[tokio::test]
async fn an_event_of_a_licence_learns_its_asset_its_project_and_what_they_were_like() {
    let world = World::new("snapshots").await;
    entities(&world).await;
    world
        .events(json!([{"id": "e", "occurred_at": AT, "license_id": "lic_1"}]))
        .await;
    enrich(&world, &["e"]).await;
    let row = event(&world, "e").await;
    assert_eq!(
        (&row["ip_asset_id"], &row["project_id"]),
        (&json!("ast_1"), &json!("prj_1"))
    );
    let enrichment = &row["enrichment"];
    let asset = json!({"id": "ast_1", "title": "Golden Temple", "type": "IMAGE", "status": "PUBLISHED", "projectId": "prj_1", "creatorId": "crt_bob"});
    assert_eq!(enrichment["asset"], asset);
    let license = json!({
        "id": "lic_1", "status": "ACTIVE", "type": "EXCLUSIVE", "startDate": "2025-01-01", "endDate": "2025-12-31", "feeCents": 5000,
        "revShareBps": 250, "brandId": "brd_1"
    });
    assert_eq!(enrichment["license"], license);
    assert!(enrichment["snapshotAt"].is_string());
}

#[tokio::test]
async fn the_same_message_twice_leaves_one_attribution_and_the_first_snapshot() {
    let world = World::new("twice").await;
    let props = json!({"userAgent": PHONE, "utmSource": "News", "referrer": "https://a.example.test/"});
    world
        .events(json!([{"id": "e", "occurred_at": AT, "ip_asset_id": "ast_1", "session_id": "s", "props": props}]))
        .await;
    world
        .execute(
            "INSERT INTO attributions (event_id, utm_source, device_type) VALUES ('e', 'kept', NULL)",
            &[],
        )
        .await;
    enrich(&world, &["e"]).await;
    let first = event(&world, "e").await;
    enrich(&world, &["e"]).await;
    assert_eq!(event(&world, "e").await, first);
    assert_eq!(first["props"], props, "what was received stays as it was");
    let attribution = world
        .rows("SELECT utm_source, referrer, device_type, browser, os FROM attributions")
        .await;
    let expected = json!({"utm_source": "kept", "referrer": "https://a.example.test/", "device_type": "mobile", "browser": "Safari", "os": "iOS"});
    assert_eq!(attribution, [expected]);
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'skipped' AND reason = 'already'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_session_begins_with_its_first_writer_and_lasts_never_less_than_nothing() {
    let world = World::new("session").await;
    let event_at = |id: &str, time: &str| json!({"id": id, "occurred_at": time, "session_id": "s", "actor_id": id, "props": {"landingPage": format!("/{id}"), "utm_medium": "EMAIL"}});
    world
        .events(json!([
            event_at("b", "2025-10-17T12:00:05Z"),
            event_at("a", AT),
            event_at("before", "2025-10-17T11:00:00Z")
        ]))
        .await;
    enrich(&world, &["b", "a"]).await;
    enrich(&world, &["before"]).await;
    let sessions = world
        .rows("SELECT session_id, landing_page, utm_medium FROM analytics_sessions")
        .await;
    assert_eq!(
        sessions,
        [json!({"session_id": "s", "landing_page": "/a", "utm_medium": "email"})]
    );
    for (id, lasted) in [("a", 0), ("b", 5000), ("before", 0)] {
        assert_eq!(
            event(&world, id).await["enrichment"]["session"]["durationMs"],
            lasted,
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_crawler_is_a_bot_and_what_says_nothing_is_a_desktop() {
    let world = World::new("bots").await;
    let with =
        |id: &str, agent: Value| json!({"id": id, "occurred_at": AT, "actor_id": id, "props": {"userAgent": agent}});
    world
        .events(json!([
            with("bot", json!("Googlebot/2.1")),
            with("none", Value::Null),
            with("odd", json!({"a": [1]}))
        ]))
        .await;
    enrich(&world, &["bot", "none", "odd"]).await;
    assert_eq!(event(&world, "bot").await["is_bot"], true);
    for id in ["none", "odd"] {
        let row = event(&world, id).await;
        assert_eq!(
            (&row["is_bot"], &row["enrichment"]["device"]),
            (&json!(false), &json!({"type": "desktop"}))
        );
    }
}

#[tokio::test]
async fn a_duplicate_names_its_original_and_two_keys_are_two_events() {
    let world = World::new("duplicates").await;
    let event_at = |id: &str, time: &str, key: Option<&str>| json!({"id": id, "occurred_at": time, "actor_id": "ann", "ip_asset_id": "ast_1", "idempotency_key": key});
    world
        .events(json!([
            event_at("a", "2025-10-17T12:00:00.1Z", Some("k1")),
            event_at("b", "2025-10-17T12:00:00.9Z", None),
            event_at("c", "2025-10-17T12:00:00.5Z", Some("k2")),
            event_at("d", "2025-10-17T12:00:01Z", None),
        ]))
        .await;
    enrich(&world, &["d", "c", "b", "a"]).await;
    let duplicates = world
        .rows("SELECT id, duplicate_of FROM events WHERE duplicate_of IS NOT NULL")
        .await;
    assert_eq!(duplicates, [json!({"id": "b", "duplicate_of": "a"})]);
}

#[tokio::test]
async fn an_event_that_is_not_there_yet_is_waited_for_and_one_that_never_comes_is_let_go() {
    let world = World::new("not_there").await;
    world.send(JOB, [json!({"eventId": "late"}), json!({"eventId": "never"})]);
    world.pump(JOB).await;
    world.events(json!([{"id": "late", "occurred_at": AT}])).await;
    world.drain(JOB).await;
    let runs = world
        .rows("SELECT status, reason, attempts FROM job_runs ORDER BY status")
        .await;
    assert_eq!(
        runs,
        [
            json!({"status": "done", "reason": null, "attempts": 2}),
            json!({"status": "skipped", "reason": "not_found", "attempts": 3}),
        ]
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn an_event_that_the_database_refuses_fails_alone() {
    let world = World::new("alone").await;
    world
        .execute(
            "ALTER TABLE attributions ADD CONSTRAINT broken CHECK (referrer <> 'bad')",
            &[],
        )
        .await;
    let ids: Vec<_> = (0..6).map(|n| format!("e{n}")).collect();
    let events = ids.iter().map(|id| {
        json!({"id": id, "occurred_at": AT, "actor_id": id, "props": {"referrer": if id == "e3" { "bad" } else { "good" }}})
    });
    world.events(Value::Array(events.collect())).await;
    enrich(&world, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE enriched_at IS NOT NULL")
            .await,
        5
    );
    let dead = world.dead_letters(JOB);
    assert_eq!((dead.len(), &*dead[0].body), (1, r#"{"eventId":"e3"}"#));
    assert!(
        dead[0].attributes["reason"].contains("broken"),
        "{:?}",
        dead[0].attributes
    );
}

#[tokio::test]
async fn an_unknown_type_the_future_long_ago_and_a_mebibyte_of_properties_are_enriched_like_any_other() {
    let world = World::new("odd_ones").await;
    let bag =
        json!({"userAgent": "x".repeat(1 << 19), "referrer": "y".repeat(1 << 19), "utmSource": "Z".repeat(1 << 10)});
    world
        .events(json!([
            {"id": "unknown", "occurred_at": AT, "event_type": "never_heard_of"},
            {"id": "future", "occurred_at": "2999-01-01T00:00:00Z"},
            {"id": "old", "occurred_at": "1999-01-01T00:00:00Z"},
            {"id": "large", "occurred_at": AT, "props": bag},
        ]))
        .await;
    enrich(&world, &["unknown", "future", "old", "large"]).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE enriched_at IS NOT NULL")
            .await,
        4
    );
    let cut = world.rows("SELECT length(referrer) AS referrer, length(utm_source) AS source FROM attributions WHERE event_id = 'large'").await;
    assert_eq!(cut, [json!({"referrer": 2048, "source": 255})]);
    assert_eq!(event(&world, "large").await["props"], bag);
}

#[tokio::test]
async fn what_is_no_message_is_dead_and_takes_no_other_down() {
    let world = World::new("no_message").await;
    world.events(json!([{"id": "e", "occurred_at": AT}])).await;
    world
        .deliver(
            JOB,
            [json!({"eventId": "a b"}), json!({}), json!({"eventId": "e"}), json!([])],
        )
        .await;
    assert_eq!(world.dead_letters(JOB).len(), 3);
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE enriched_at IS NOT NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn whatever_fails_each_event_is_enriched_once() {
    faults::everywhere("enrich_faults", async |world| {
        world.set("DATABASE_POOL_SIZE", "1");
        let rows = (0..3).map(
            |n| json!({"id": format!("e{n}"), "occurred_at": AT, "session_id": "s", "props": {"userAgent": PHONE}}),
        );
        world.events(Value::Array(rows.collect())).await;

        enrich(world, &["e0", "e1", "e2", "e1"]).await;

        assert_eq!(
            world
                .count("SELECT count(*) FROM events WHERE enriched_at IS NOT NULL")
                .await,
            3
        );
        assert_eq!(
            world
                .count("SELECT count(*) FROM events WHERE duplicate_of = 'e0'")
                .await,
            2
        );
        assert_eq!(world.count("SELECT count(*) FROM attributions").await, 3);
        assert_eq!(world.count("SELECT count(*) FROM analytics_sessions").await, 1);
        assert_eq!(
            world
                .count("SELECT count(*) FROM job_runs WHERE status NOT IN ('done', 'skipped')")
                .await,
            0
        );
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
