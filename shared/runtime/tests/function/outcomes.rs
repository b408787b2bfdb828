//! Every outcome: what the ledger, the queue and the DLQ say afterwards.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn what_is_done_keeps_its_report_and_is_acknowledged() {
    let world = world("done").await;
    let id = send(&world, json!({"end": "report", "report": {"sent": 3}}));

    let drained = world.drain("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.attempts, row.crashes), ("done", 1, 0));
    assert_eq!(row.report, Some(json!({"sent": 3})));
    assert_eq!((row.trigger.as_str(), row.lease_token), ("message", None));
    assert_eq!((drained.deliveries, drained.returned), (1, 0));
    assert_eq!(world.dead_letters("fixture"), []);
}

#[tokio::test]
async fn what_is_skipped_says_why_and_is_no_failure() {
    let world = world("skipped").await;
    let id = send(&world, json!({"end": "skip", "reason": "not_found"}));

    let drained = world.drain("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.reason()), ("skipped", "not_found"));
    assert_eq!((drained.deliveries, drained.returned), (1, 0));
}

#[tokio::test]
async fn a_chain_goes_on_under_counting_run_keys_and_in_one_trace() {
    let world = world("continued").await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    send_with(
        &world,
        r#"{"end":"continue","links":3}"#,
        &[("runKey", "k"), ("traceparent", &parent)],
    );

    world.drain("fixture").await;

    let runs = runs(&world).await;
    let chain: Vec<_> = runs
        .values()
        .map(|row| (row.run_key.as_str(), row.status.as_str(), row.trigger.as_str()))
        .collect();
    assert_eq!(
        chain,
        [
            ("k", "continued", "message"),
            ("k#1", "continued", "continuation"),
            ("k#2", "continued", "continuation"),
            ("k#3", "done", "continuation"),
        ]
    );
    for row in runs.values() {
        assert_eq!(row.trace_id.as_deref(), Some(TRACE), "{}", row.run_key);
    }
    assert_eq!(count(&world, "outbox").await, 0);
}

#[tokio::test]
async fn a_loop_of_continuations_ends_in_the_dlq() {
    let world = world("loop").await;
    send_as(&world, "k#1000", json!({"end": "continue", "links": 1}));

    world.drain("fixture").await;

    let row = run(&world, "k#1000").await;
    assert_eq!(
        (row.status.as_str(), row.reason()),
        ("dead", "continued more than 1000 times")
    );
    assert_eq!(world.dead_letters("fixture").len(), 1);
}

#[tokio::test]
async fn what_is_deferred_comes_back_at_its_time_and_uses_no_attempt() {
    let world = world("deferred").await;
    let id = send(&world, json!({"end": "defer", "seconds": 3600, "times": 1}));

    world.pump("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!(
        (row.status.as_str(), row.reason(), row.attempts),
        ("deferred", "not yet", 0)
    );
    let hidden = world.queued("fixture")[0].hidden_for;
    assert!((3590..=3600).contains(&hidden.as_secs()), "{hidden:?}");

    world.drain("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.attempts), ("done", 1));
    assert_eq!(row.report, Some(json!({"attempt": 1})));
}

#[tokio::test]
async fn what_is_deferred_more_often_than_sqs_gives_a_message_out_is_not_lost() {
    let world = world("deferred_often").await;
    let note_delays = "CREATE TABLE delays (seconds int);
        CREATE FUNCTION note_delay() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO delays VALUES (NEW.delay_seconds); RETURN NULL; END $$;
        CREATE TRIGGER note_delay AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note_delay()";
    sqlx::raw_sql(note_delays).execute(&world.db).await.unwrap();
    send_as(&world, "k", json!({"end": "defer", "seconds": 60, "times": 25}));

    world.drain("fixture").await;

    let row = run(&world, "k").await;
    assert_eq!((row.status.as_str(), row.attempts), ("done", 1));
    assert_eq!(world.dead_letters("fixture"), []);
    assert_eq!(count(&world, "outbox").await, 0);
    let delays: Vec<i32> = sqlx::query_scalar("SELECT seconds FROM delays")
        .fetch_all(&world.db)
        .await
        .unwrap();
    // The relay, too, is to send it when it is due.
    assert_eq!(delays.len(), 2);
    assert!(delays.iter().all(|delay| (50..=60).contains(delay)), "{delays:?}");
}

#[tokio::test]
async fn a_retry_waits_for_its_backoff_and_the_ledger_counts_its_attempts() {
    let world = world("retry").await;
    let id = send(&world, json!({"end": "retry", "error": "no answer", "attempts": 2}));

    let mut hidden = Vec::new();
    for attempt in 1..=2 {
        world.pump("fixture").await;
        let row = run(&world, &id).await;
        assert_eq!((row.status.as_str(), row.attempts), ("retrying", attempt));
        assert_eq!(row.error.as_deref(), Some("no answer"));
        let wait = world.queued("fixture")[0].hidden_for;
        hidden.push(wait.as_secs());
        world.advance(wait).await;
    }
    world.pump("fixture").await;

    // 2 s and 4 s, a fifth up or down, in whole seconds.
    assert!(
        (2..=3).contains(&hidden[0]) && (4..=5).contains(&hidden[1]),
        "{hidden:?}"
    );
    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.attempts, row.error), ("done", 3, None));
    assert_eq!(world.queued("fixture"), []);
}

#[tokio::test]
async fn after_the_last_attempt_the_message_lies_in_the_dlq_and_says_why_in_words() {
    let world = world("last_attempt").await;
    let body = r#"{"end": "retry", "error": "no answer",   "attempts": 9}"#;
    let id = send_with(&world, body, &[("colour", "blue")]);

    world.drain("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.attempts), ("dead", 3));
    let letters = world.dead_letters("fixture");
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}")
    };
    assert_eq!(letter.body, body, "the very text");
    let attribute = |name: &str| letter.attributes.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!(attribute("job"), "fixture");
    assert_eq!(attribute("runKey"), id);
    assert_eq!(attribute("reason"), "failed 3 times, at last: no answer");
    assert_eq!(attribute("error"), "no answer");
    assert_eq!(attribute("attempts"), "3");
    let time = |name: &str| attribute(name).parse::<jobs::Timestamp>().unwrap();
    assert!(time("firstSeenAt") <= time("lastFailedAt"));
    let row_trace = row.trace_id.unwrap();
    assert!(attribute("traceparent").contains(&row_trace));
}

#[tokio::test]
async fn what_can_never_work_is_dead_at_once() {
    let world = world("dead").await;
    let id = send(&world, json!({"end": "dead", "reason": "the licence is void"}));

    let drained = world.drain("fixture").await;

    assert_eq!((drained.deliveries, drained.waited), (1, Duration::ZERO));
    let letter = &world.dead_letters("fixture")[0];
    assert_eq!(letter.attributes["reason"], "the licence is void");
    assert_eq!(letter.attributes["error"], "the licence is void");
    assert_eq!(letter.attributes["attempts"], "1");
    assert_eq!(run(&world, &id).await.status, "dead");
}

#[tokio::test]
async fn whatever_a_handler_says_is_kept_and_no_neighbour_pays_for_it() {
    let world = world("texts").await;
    let odd = "a\0b\nc\u{fffe}d";
    let bodies = [
        json!({"end": "skip", "reason": odd}),
        json!({"end": "skip", "reason": "ü".repeat(100_000)}),
        json!({"end": "report", "report": {odd: [odd, {"n": null}]}}),
        json!({"end": "dead", "reason": odd}),
        json!({"end": "dead", "reason": ""}),
        json!({"end": "done"}),
    ];
    // SQS itself would take the character only escaped.
    let escaped = |body: Value| body.to_string().replace('\u{fffe}', r"\ufffe");
    let ids: Vec<_> = bodies
        .into_iter()
        .map(|body| send_with(&world, &escaped(body), &[]))
        .collect();

    let drained = world.drain("fixture").await;

    assert_eq!((drained.invocations, drained.returned), (1, 0));
    let runs = runs(&world).await;
    let rows: Vec<_> = ids.iter().map(|id| &runs[id]).collect();
    assert_eq!(rows[0].reason(), "a b c d");
    assert_eq!(rows[1].reason().chars().count(), 1000);
    let plain = "ab\nc\u{fffe}d";
    assert_eq!(rows[2].report, Some(json!({plain: [plain, {"n": Value::Null}]})));
    assert_eq!(rows[5].status, "done");
    let mut reasons: Vec<_> = world
        .dead_letters("fixture")
        .iter()
        .map(|letter| letter.attributes["reason"].clone())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["a b c d", "no reason given"]);
}
