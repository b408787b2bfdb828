//! Every fault at every call.

use std::time::Duration;

use serde_json::json;
use testkit::World;
use testkit::faults::{self, Service};

use crate::support::*;

/// Then the same calls are made in the same order every time: each connection prepares its statements for itself.
fn one_connection(world: &World) {
    world.set("DATABASE_POOL_SIZE", "1");
}

async fn nothing_is_left(world: &World) {
    for row in runs(world).await.values() {
        assert!(
            matches!(row.status.as_str(), "done" | "skipped" | "continued"),
            "{row:?}"
        );
        assert_eq!(row.lease_token, None);
    }
    assert_eq!(world.dead_letters("fixture"), []);
    assert_eq!(world.queued("fixture"), []);
}

#[tokio::test]
async fn ten_messages_cost_two_statements_and_each_is_done_once_whatever_fails() {
    let report = faults::everywhere("ten_messages", async |world| {
        define(world, |_| {});
        one_connection(world);
        let ids: Vec<_> = (0..10).map(|_| send(world, json!({"end": "done"}))).collect();

        world.drain("fixture").await;

        nothing_is_left(world).await;
        let runs = runs(world).await;
        assert_eq!(runs.len(), 10);
        for id in &ids {
            assert_eq!((runs[id].status.as_str(), runs[id].attempts), ("done", 1));
        }
    })
    .await;

    let statements: Vec<_> = report
        .calls
        .iter()
        .filter(|call| call.point.service == Service::Postgres && call.has_effect())
        .collect();
    assert!(report.cases == 1 || statements.len() == 2, "{statements:?}");
}

#[tokio::test]
async fn messages_that_are_retried_continued_and_sent_on_all_end_well_whatever_fails() {
    faults::everywhere("all_outcomes", async |world| {
        define(world, |_| {});
        one_connection(world);
        send_as(
            world,
            "retry",
            json!({"end": "retry", "error": "no answer", "attempts": 1}),
        );
        send_as(world, "chain", json!({"end": "continue", "links": 1}));
        send_as(world, "enqueue", json!({"end": "enqueue", "commit": true}));

        world.drain("fixture").await;
        // What a fault left in the outbox goes on with the relay's next tick.
        while count(world, "outbox").await > 0 {
            world.advance(Duration::from_secs(60)).await;
            world.invoke("outbox-relay", json!({})).await.unwrap();
            world.drain("fixture").await;
        }

        nothing_is_left(world).await;
        let runs = runs(world).await;
        assert_eq!(
            runs.keys().collect::<Vec<_>>(),
            ["chain", "chain#1", "enqueue", "retry"]
        );
        assert_eq!(runs["chain#1"].status, "done");
        assert!(!world.queued("outbox-relay").is_empty(), "at least once");
    })
    .await;
}
