//! A world of its own for each test, and the faults in it.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};
use testkit::World;
use testkit::faults;
use testkit::world::{Job, binary};

async fn with_sample(world: &World) {
    sqlx::query("CREATE TABLE effects (key text PRIMARY KEY)")
        .execute(&world.db)
        .await
        .expect("a new table");
    world.define("sample", Job::new(binary("examples/sample")));
}

async fn effects(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT key FROM effects ORDER BY key")
        .fetch_all(&world.db)
        .await
        .expect("the table")
}

#[tokio::test]
async fn a_message_has_its_effects_and_a_dead_one_is_kept() {
    let world = World::new("a_message_has_its_effects").await;
    with_sample(&world).await;

    let drained = world
        .deliver(
            "sample",
            [
                json!({ "row": "a", "mail": "ann@example.test" }),
                json!({ "do": "fail" }),
            ],
        )
        .await;

    assert_eq!(effects(&world).await, ["a"]);
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(world.dead_letters("sample")[0].json::<Value>(), json!({ "do": "fail" }));
    assert_eq!(world.queued("sample"), []);
    assert_eq!(drained.waited, Duration::from_secs(10 * 180));
}

#[tokio::test]
async fn time_passes_for_the_database_as_for_the_queue() {
    let world = World::new("time_passes").await;
    sqlx::raw_sql(
        "CREATE TABLE slots (at timestamptz PRIMARY KEY, until timestamptz NOT NULL DEFAULT 'infinity', note text);
         CREATE TABLE children (at timestamptz REFERENCES slots, made timestamptz GENERATED ALWAYS AS (at) STORED);
         INSERT INTO slots (at) SELECT date_trunc('hour', now()) + n * interval '1 hour' FROM generate_series(0, 9) n;
         INSERT INTO children (at) SELECT at FROM slots;",
    )
    .execute(&world.db)
    .await
    .unwrap();
    world
        .queue
        .send_with("orders", "later", Default::default(), Duration::from_secs(600));

    world.advance(Duration::from_secs(7200)).await;

    let moved: Vec<(i64, bool, i64)> = sqlx::query_as(
        "SELECT (extract(epoch FROM s.at - date_trunc('hour', now())) / 3600)::bigint, until = 'infinity', count(c.at)
         FROM slots s LEFT JOIN children c ON c.at = s.at GROUP BY s.at ORDER BY s.at",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    assert_eq!(moved, (-2..8).map(|hour| (hour, true, 1)).collect::<Vec<_>>());
    assert_eq!(world.queue.next_due("orders"), Some(Duration::ZERO));
}

#[tokio::test]
async fn an_idempotent_effect_survives_every_fault() {
    let report = faults::everywhere("an_idempotent_effect_survives", async |world| {
        with_sample(world).await;
        world
            .deliver("sample", [json!({ "row": "a" }), json!({ "row": "b" })])
            .await;
        assert_eq!(effects(world).await, ["a", "b"]);
        assert_eq!(world.dead_letters("sample"), []);
    })
    .await;

    let what: Vec<_> = report.calls.iter().map(|call| &*call.what).collect();
    let insert = "INSERT INTO effects (key) VALUES ($1) ON CONFLICT DO NOTHING";
    let prepare = format!("PREPARE {insert}");
    assert_eq!(what, ["BEGIN", &prepare, insert, "COMMIT", "BEGIN", insert, "COMMIT"]);
    assert!(report.missed.is_empty(), "{report:?}");
}

#[tokio::test]
async fn what_is_not_idempotent_is_caught() {
    let naive = async |world: &World| {
        with_sample(world).await;
        world.deliver("sample", [json!({ "mail": "ann@example.test" })]).await;
        assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    };

    let caught = AssertUnwindSafe(faults::everywhere("what_is_not_idempotent", naive))
        .catch_unwind()
        .await
        .unwrap_err();

    let said = caught.downcast_ref::<String>().unwrap();
    for case in ["ses:1:kill-after", "ses:1:applied-but-timed-out", "queue:duplicated"] {
        assert!(said.contains(case), "{said}");
    }
    for case in [
        "ses:1:kill-before",
        "ses:1:error",
        "ses:1:timeout-before",
        "queue:reordered",
    ] {
        assert!(!said.contains(case), "{said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("POST /v2/email/outbound-emails"), "{said}");
}
