//! One record never takes another down.

use std::collections::BTreeMap;

use serde_json::json;
use testkit::World;
use testkit::world::queue_name;

use crate::support::*;

async fn reasons(world: &World) -> BTreeMap<String, String> {
    let letters = world.dead_letters("fixture");
    letters
        .into_iter()
        .map(|mut letter| {
            let mut take = |name: &str| letter.attributes.remove(name).unwrap_or_default();
            (take("runKey"), take("reason"))
        })
        .collect()
}

#[tokio::test]
async fn a_batch_of_ten_with_one_malformed_body_one_unknown_id_one_panic_and_one_duplicate_gives_each_its_own_fate() {
    let world = world("a_batch_of_ten").await;
    send_as(&world, "1", json!({"end": "done"}));
    send_with(&world, "{\"end\": ", &[("runKey", "malformed")]);
    send_as(&world, "2", json!({"end": "done"}));
    send_as(&world, "unknown", json!({"end": "skip", "reason": "not_found"}));
    send_as(&world, "3", json!({"end": "done"}));
    send_as(&world, "panic", json!({"end": "panic", "text": "index out of bounds"}));
    send_as(&world, "3", json!({"end": "done"}));
    for key in ["4", "5", "6"] {
        send_as(&world, key, json!({"end": "done"}));
    }

    let first = world.pump("fixture").await;
    assert_eq!((first.invocations, first.deliveries, first.returned), (1, 10, 1));
    world.drain("fixture").await;

    let runs = runs(&world).await;
    let fates: Vec<_> = runs
        .values()
        .map(|row| (row.run_key.as_str(), row.status.as_str(), row.attempts))
        .collect();
    assert_eq!(
        fates,
        [
            ("1", "done", 1),
            ("2", "done", 1),
            ("3", "done", 1),
            ("4", "done", 1),
            ("5", "done", 1),
            ("6", "done", 1),
            ("malformed", "dead", 1),
            ("panic", "dead", 3),
            ("unknown", "skipped", 1),
        ]
    );
    let reasons = reasons(&world).await;
    assert_eq!(reasons.len(), 2);
    assert!(
        reasons["malformed"].starts_with("the body is not JSON: EOF"),
        "{reasons:?}"
    );
    let panic = &reasons["panic"];
    assert!(panic.starts_with("failed 3 times, at last: panicked at "), "{panic}");
    assert!(panic.ends_with(": index out of bounds"), "{panic}");
    assert_eq!(world.queued("fixture"), []);
}

#[tokio::test]
async fn a_body_that_is_no_message_is_dead_with_a_reason_that_a_person_understands() {
    let world = world("no_message").await;
    let future = chrono::Utc::now() + chrono::Duration::minutes(30);
    let wrong = [
        ("empty", String::new(), "the body is not JSON: EOF while parsing"),
        ("text", "hello".into(), "the body is not JSON: expected value"),
        ("cut", "{\"end\":\"do".into(), "the body is not JSON: EOF while parsing"),
        ("two", "{}{}".into(), "the body is not JSON: trailing characters"),
        (
            "array",
            "[{\"end\":\"done\"}]".into(),
            "the body is a JSON array, not an object",
        ),
        ("null", "null".into(), "the body is a JSON null, not an object"),
        ("string", "\"done\"".into(), "the body is a JSON string, not an object"),
        ("number", "7".into(), "the body is a JSON number, not an object"),
        (
            "deep",
            "[".repeat(100_000),
            "the body is not JSON: recursion limit exceeded",
        ),
        ("missing", "{}".into(), "invalid message: missing field `end`"),
        (
            "field",
            "{\"end\":\"skip\"}".into(),
            "invalid message: missing field `reason`",
        ),
        (
            "type",
            "{\"end\":\"wait\",\"lock\":\"x\"}".into(),
            "invalid message: invalid type: string \"x\", expected i64",
        ),
        (
            "variant",
            "{\"end\":\"dance\"}".into(),
            "invalid message: `end`: unknown variant `dance`",
        ),
        (
            "version",
            "{\"v\":\"1\",\"end\":\"done\"}".into(),
            "invalid message: `v` is not a positive integer",
        ),
        (
            "future",
            json!({"end": "slot", "asOf": future}).to_string(),
            "invalid message: `asOf` ",
        ),
        (
            "panic",
            "{\"end\":\"panicInDecoding\"}".into(),
            "invalid message: panicked at ",
        ),
    ];
    for (key, body, _) in &wrong {
        send_with(&world, body, &[("runKey", key)]);
    }
    send_as(&world, "good", json!({"end": "done"}));

    let drained = world.drain("fixture").await;

    assert_eq!(drained.returned, 0, "none of them is worth another try");
    let reasons = reasons(&world).await;
    for (key, _, reason) in &wrong {
        assert!(reasons[*key].starts_with(reason), "{key}: {}", reasons[*key]);
    }
    assert_eq!(reasons.len(), wrong.len());
    assert_eq!(run(&world, "good").await.status, "done");
}

#[tokio::test]
async fn fields_that_nobody_knows_are_ignored() {
    let world = world("unknown_fields").await;
    let id = send(
        &world,
        json!({"v": 1, "end": "done", "colour": "blue", "by": {"a": [1]}}),
    );

    world.drain("fixture").await;

    assert_eq!(run(&world, &id).await.status, "done");
}

#[tokio::test]
async fn a_message_of_a_newer_version_waits_for_a_newer_function_before_it_is_dead() {
    let world = world("newer").await;
    let id = send(&world, json!({"v": 2, "end": "done"}));

    world.pump("fixture").await;
    assert_eq!(run(&world, &id).await.status, "retrying");
    world.drain("fixture").await;

    let reason = "failed 3 times, at last: message version 2 is newer than 1, the newest that this function knows";
    assert_eq!(run(&world, &id).await.reason(), reason);
    assert_eq!(world.dead_letters("fixture")[0].attributes["reason"], reason);
}

#[tokio::test]
async fn a_dead_message_that_fills_sqs_goes_to_the_dlq_by_itself_and_the_ledger_keeps_the_reason() {
    let world = world("one_mebibyte").await;
    let prefix = r#"{"end":"dead","reason":"too much","filler":""#;
    let body = format!("{prefix}{}\"}}", "x".repeat((1 << 20) - prefix.len() - 2));
    assert_eq!(body.len(), 1 << 20);
    let id = send_with(&world, &body, &[]);
    let small = send(&world, json!({"end": "done"}));

    world.drain("fixture").await;

    let letters = world.dead_letters("fixture");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].body == body && letters[0].attributes.is_empty());
    let row = run(&world, &id).await;
    assert_eq!(
        (row.status.as_str(), row.reason(), row.attempts),
        ("dead", "too much", 1)
    );
    assert_eq!(count(&world, "outbox").await, 0);
    assert_eq!(run(&world, &small).await.status, "done");
}

#[tokio::test]
async fn run_keys_may_be_long_and_in_any_script() {
    let world = world("run_keys").await;
    let long = "k".repeat(5000);
    let keys = [
        "bücher/東京 🗼".to_owned(),
        format!("{long}a"),
        format!("{long}b"),
        "x".repeat(180),
    ];
    for key in &keys {
        send_as(&world, key, json!({"end": "continue", "links": 2}));
    }

    world.drain("fixture").await;

    let runs = runs(&world).await;
    assert_eq!(runs.len(), keys.len() * 3, "each chain is its own: {:?}", runs.keys());
    assert_eq!(runs.values().filter(|row| row.status == "done").count(), keys.len());
    assert!(runs.contains_key("bücher/東京 🗼#2"));
}

#[tokio::test]
async fn a_run_key_that_no_database_takes_stops_nobody_else() {
    let world = world("a_run_key_with_nul").await;
    let odd = send(
        &world,
        json!({"end": "done", "schedule": "a\0b", "asOf": "2025-10-20T09:00:00Z"}),
    );
    let good = send(&world, json!({"end": "done"}));

    let drained = world.drain("fixture").await;

    assert_eq!((drained.invocations, drained.returned), (1, 0));
    assert_eq!(run(&world, &good).await.status, "done");
    assert_eq!(run(&world, "ab@2025-10-20T09:00:00Z").await.status, "done", "{odd}");
}

#[tokio::test]
async fn the_answer_names_what_failed_in_order_and_nothing_else() {
    let world = world("the_answer").await;
    let done = json!({"end": "done"});
    let retry = json!({"end": "retry", "error": "no answer", "attempts": 3});

    for (event, answer) in [
        (batch(&[("a1", done.clone()), ("a2", done.clone())]), failed(&[])),
        (
            batch(&[
                ("b1", done.clone()),
                ("b2", retry.clone()),
                ("b3", done.clone()),
                ("b4", retry.clone()),
            ]),
            failed(&["b2", "b4"]),
        ),
        (batch(&[("c1", retry.clone()), ("c2", done.clone())]), failed(&["c1"])),
        (
            batch(&[("d1", retry.clone()), ("d2", retry.clone())]),
            failed(&["d1", "d2"]),
        ),
        (batch(&[]), failed(&[])),
        // The instance is warm, and remembers nothing of the batches before.
        (batch(&[("e1", done.clone())]), failed(&[])),
    ] {
        assert_eq!(world.invoke("fixture", event).await.unwrap(), answer);
    }
    assert_eq!(world.function("fixture").await.cold_starts().len(), 1);
}

#[tokio::test]
async fn a_batch_handler_that_panics_or_gives_up_runs_again_for_each_message_alone() {
    for culprit in [
        json!({"end": "panic", "text": "as asked"}),
        json!({"end": "dead", "reason": "void"}),
    ] {
        let world = world("a_batch_handler").await;
        world.set("FIXTURE_TAKES", "batches");
        let good: Vec<_> = (0..3).map(|_| send(&world, json!({"end": "done"}))).collect();
        let bad = send(&world, culprit);
        let skipped = send(&world, json!({"end": "skip", "reason": "not_found"}));

        world.drain("fixture").await;

        let runs = runs(&world).await;
        for id in &good {
            assert_eq!((runs[id].status.as_str(), runs[id].attempts), ("done", 1));
        }
        assert_eq!(runs[&bad].status, "dead");
        assert_eq!(runs[&skipped].status, "skipped");
        assert_eq!(world.dead_letters("fixture").len(), 1);
    }
}

#[tokio::test]
async fn a_batch_handler_that_fails_as_a_whole_is_tried_again_as_a_whole() {
    let world = world("a_batch_fails").await;
    world.set("FIXTURE_TAKES", "batches");
    world.queue.send(&queue_name("fixture"), r#"{"end":"done"}"#);
    world.queue.send(
        &queue_name("fixture"),
        r#"{"end":"retry","error":"no answer","attempts":1}"#,
    );

    world.drain("fixture").await;

    for row in runs(&world).await.values() {
        assert_eq!(row.status, "done");
    }
}
