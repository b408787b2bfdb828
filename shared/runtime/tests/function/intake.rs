//! What wakes the function, and by what its run is known.

use serde_json::{Value, json};
use testkit::Failure;

use crate::support::*;

const SLOT: &str = "2025-10-20T09:00:00Z";

fn scheduled(id: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": id, "detail-type": "Scheduled Event", "source": "aws.scheduler", "account": "123456789012",
        "time": SLOT, "region": "us-east-1", "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/default/tick"],
        "detail": detail,
    })
}

#[tokio::test]
async fn an_eventbridge_event_is_a_run_for_its_time_once() {
    let world = world("eventbridge").await;
    for _ in 0..2 {
        let answer = world.invoke("fixture", scheduled("e-1", json!({"end": "slot"}))).await;
        assert_eq!(answer.unwrap(), json!({"settled": true}));
    }

    let row = run(&world, "e-1").await;
    assert_eq!((row.trigger.as_str(), row.attempts), ("event", 1));
    assert_eq!(row.report, Some(json!({"asOf": SLOT})));
}

#[tokio::test]
async fn a_bare_invoke_is_the_message_itself() {
    let world = world("bare_invoke").await;

    let answer = world.invoke("fixture", json!({"end": "done"})).await;

    assert_eq!(answer.unwrap(), json!({"settled": true}));
    let runs = runs(&world).await;
    let row = runs.values().next().unwrap();
    assert_eq!((row.trigger.as_str(), row.status.as_str()), ("invoke", "done"));
}

#[tokio::test]
async fn a_bare_invoke_that_is_not_settled_is_an_error_so_that_lambda_repeats_it() {
    let world = world("bare_invoke_fails").await;
    let message = json!({"end": "retry", "error": "no answer", "attempts": 1});

    let answer = world.invoke("fixture", message).await;

    assert!(
        matches!(&answer, Err(Failure::Function { message, .. }) if message.contains("not settled")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_dead_invocation_is_in_the_dlq_like_any_message() {
    let world = world("dead_invocation").await;

    for event in [json!({"end": "dance"}), json!([1]), json!("x"), json!(null)] {
        let before = world.dead_letters("fixture").len();
        assert_eq!(
            world.invoke("fixture", event.clone()).await.unwrap(),
            json!({"settled": true})
        );
        let letters = world.dead_letters("fixture");
        assert_eq!(letters.len(), before + 1);
        assert_eq!(letters[before].json::<Value>(), event);
    }
}

#[tokio::test]
async fn a_dead_invocation_that_no_queue_takes_is_in_the_ledger() {
    let world = world("large_invocation").await;

    let event = json!({"end": "dead", "reason": "too much", "filler": "x".repeat(2 << 20)});
    assert_eq!(world.invoke("fixture", event).await.unwrap(), json!({"settled": true}));

    assert_eq!(runs(&world).await.into_values().next().unwrap().reason(), "too much");
    assert_eq!(count(&world, "outbox").await, 0);
}

#[tokio::test]
async fn records_that_are_not_of_sqs_are_refused_and_none_is_acknowledged() {
    let world = world("other_records").await;
    for records in [
        json!({"a": 1}),
        json!([{"eventSource": "aws:s3", "s3": {"object": {"key": "k"}}}]),
        json!([{"EventSource": "aws:sns", "Sns": {"Message": "{}"}}]),
        json!([{"messageId": "m", "body": "{}"}]),
    ] {
        let answer = world.invoke("fixture", json!({ "Records": records })).await;
        assert!(
            matches!(&answer, Err(Failure::Function { message, .. }) if message.contains("`Records`")),
            "{answer:?}"
        );
    }
    assert!(runs(&world).await.is_empty());
}

#[tokio::test]
async fn a_run_is_known_by_its_run_key_then_its_slot_then_its_message() {
    let world = world("precedence").await;
    let slot = json!({"end": "slot", "schedule": "tick", "asOf": SLOT});
    send_as(&world, "named", slot.clone());
    send(&world, slot);
    let again = send(&world, json!({"end": "slot", "asOf": SLOT}));

    world.drain("fixture").await;

    let runs = runs(&world).await;
    let triggers: Vec<_> = runs
        .values()
        .map(|row| (row.run_key.clone(), row.trigger.as_str()))
        .collect();
    let mut expected = vec![
        ("named".to_owned(), "message"),
        (format!("tick@{SLOT}"), "schedule"),
        (again, "message"),
    ];
    expected.sort();
    assert_eq!(triggers, expected);
    for row in runs.values() {
        assert_eq!(row.report, Some(json!({"asOf": SLOT})), "each works for its slot");
    }
}

#[tokio::test]
async fn a_slot_that_is_fired_twice_runs_once() {
    let world = world("slot_twice").await;
    let slot = json!({"end": "slot", "schedule": "tick", "asOf": SLOT});
    send(&world, slot.clone());
    send(&world, slot.clone());
    world.drain("fixture").await;
    send(&world, slot);

    let late = world.drain("fixture").await;

    assert_eq!((late.deliveries, late.returned), (1, 0));
    let runs = runs(&world).await;
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[&format!("tick@{SLOT}")].attempts, 1);
}
