//! Logs hold ids, never data.

use serde_json::{Value, json};

use crate::support::*;

const CANARY: &str = "ann@example.test";

#[tokio::test]
async fn nothing_that_a_message_or_a_panic_says_is_in_the_logs() {
    let world = world("logs").await;
    let ids = [
        json!({"end": "done", "note": CANARY}),
        json!({"end": CANARY}),
        json!({"end": "wait", "lock": CANARY}),
        json!({"end": "panic", "text": format!("no address {CANARY}")}),
        json!({"end": "skip", "reason": CANARY}),
        json!({"end": "report", "report": {"to": CANARY}}),
        json!({"v": CANARY, "end": "done"}),
        json!({"end": "slot", "asOf": CANARY}),
        json!([CANARY]),
    ]
    .map(|body| send(&world, body));
    let text = send_with(&world, &format!("hello {CANARY}"), &[]);
    let function = world.function("fixture").await;

    world.drain("fixture").await;
    world.invoke("fixture", json!({ "end": CANARY })).await.unwrap();

    let logs = function.logs();
    assert!(!logs.contains("ann@"), "{logs}");
    let panicked = &ids[3];
    assert!(
        logs.contains(&text) && logs.contains(panicked),
        "ids are there:\n{logs}"
    );
    assert!(
        run(&world, panicked).await.reason().contains(CANARY),
        "the ledger keeps it all"
    );
}

#[tokio::test]
async fn every_line_is_json_and_tells_of_which_run() {
    let world = world("log_lines").await;
    let id = send(&world, json!({"end": "retry", "error": "no answer", "attempts": 9}));
    let function = world.function("fixture").await;

    world.drain("fixture").await;

    let logs = function.logs();
    let lines: Vec<Value> = logs
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let metrics: Vec<_> = lines.iter().filter(|line| line.get("_aws").is_some()).collect();
    let sum = |name: &str| metrics.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    assert_eq!((sum("Records"), sum("Retried"), sum("Dead")), (3, 2, 1));
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["run_key"] == json!(id))
        .map(|line| {
            (
                line["message"].as_str().unwrap_or_default(),
                line["attempt"].as_u64().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("an attempt failed", 1), ("an attempt failed", 2), ("a run is dead", 3)]
    );
    let last = lines.iter().rfind(|line| line["run_key"] == json!(id)).unwrap();
    assert_eq!(last["trace_id"], json!(run(&world, &id).await.trace_id));
}
