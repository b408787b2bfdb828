//! Messages leave with their transaction, and only with it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn what_was_committed_leaves_and_what_was_rolled_back_does_not() {
    let world = world("outbox").await;
    let committed = send(&world, json!({"end": "enqueue", "commit": true}));
    let rolled_back = send(&world, json!({"end": "enqueue", "commit": false}));

    world.drain("fixture").await;

    let sent = world.queued("outbox-relay");
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].json::<Value>(), json!({}));
    let trace = run(&world, &committed).await.trace_id.unwrap();
    assert!(sent[0].attributes["traceparent"].contains(&trace), "the trace goes on");
    assert_eq!(run(&world, &rolled_back).await.status, "done");
    assert_eq!(count(&world, "outbox").await, 0);
}

#[tokio::test]
async fn a_job_sends_only_where_it_declares_that_it_sends() {
    let world = world("undeclared").await;
    let id = send(&world, json!({"end": "enqueueUndeclared"}));

    world.drain("fixture").await;

    let reason = "`fixture` does not declare that it sends to `email-dispatch`";
    assert_eq!(run(&world, &id).await.reason(), reason);
    assert_eq!(world.queued("email-dispatch"), []);
    assert_eq!(count(&world, "outbox").await, 0);
}

#[tokio::test]
async fn what_a_crash_left_between_commit_and_send_the_relay_sends_once() {
    let world = world("left_behind").await;
    let id = send(&world, json!({"end": "enqueueAndCrash"}));
    world.pump("fixture").await;
    assert_eq!(
        (count(&world, "outbox").await, world.queued("outbox-relay").len()),
        (1, 0)
    );

    let tick = json!({"asOf": "2025-10-20T09:00:00Z"});
    world.invoke("outbox-relay", tick.clone()).await.unwrap();
    assert_eq!(world.queued("outbox-relay").len(), 0, "its writer may still be at it");
    world.advance(Duration::from_secs(31)).await;
    for _ in 0..2 {
        world.invoke("outbox-relay", tick.clone()).await.unwrap();
        assert_eq!(
            (count(&world, "outbox").await, world.queued("outbox-relay").len()),
            (0, 1)
        );
    }

    world.drain("fixture").await;
    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.crashes), ("done", 1));
    assert_eq!(world.queued("outbox-relay").len(), 1);
}
