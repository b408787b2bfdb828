//! SQS delivers at least once; a run happens once.

use serde_json::json;
use testkit::world::queue_name;

use crate::support::*;

#[tokio::test]
async fn a_message_twice_in_one_batch_runs_once() {
    let world = world("twice_in_a_batch").await;
    let event = batch(&[
        ("m", json!({"end": "report", "report": 1})),
        ("m", json!({"end": "report", "report": 2})),
        ("n", json!({"end": "done"})),
    ]);

    assert_eq!(world.invoke("fixture", event).await.unwrap(), failed(&[]));

    let row = run(&world, "m").await;
    assert_eq!((row.report, row.attempts), (Some(json!(1)), 1));
    assert_eq!(runs(&world).await.len(), 2);
}

#[tokio::test]
async fn a_message_twice_in_one_batch_fails_as_one() {
    let world = world("twice_and_failed").await;
    let retry = json!({"end": "retry", "error": "no answer", "attempts": 1});

    let answer = world
        .invoke("fixture", batch(&[("m", retry.clone()), ("m", retry)]))
        .await;

    assert_eq!(answer.unwrap(), failed(&["m", "m"]));
    assert_eq!(run(&world, "m").await.attempts, 1);
}

#[tokio::test]
async fn a_message_that_comes_again_while_it_runs_waits_until_it_has_run() {
    let world = world("while_it_runs").await;
    world.scale("fixture", 2);
    let mut signals = Signals::hold(&world).await;
    let body = json!({"end": "wait", "lock": LOCK});
    let first = world.invoke("fixture", batch(&[("k", body.clone())]));

    let second = async {
        assert_eq!(signals.waiting().await, "k");
        send_as(&world, "k", body);
        let pumped = world.pump("fixture").await;
        signals.release().await;
        pumped
    };
    let (answer, pumped) = tokio::join!(first, second);

    assert_eq!(answer.unwrap(), failed(&[]));
    assert_eq!((pumped.deliveries, pumped.returned), (1, 1));
    let left = world.queued("fixture");
    assert!(
        (30..=42).contains(&left[0].hidden_for.as_secs()),
        "until the lease ends: {left:?}"
    );
    world.drain("fixture").await;
    let row = run(&world, "k").await;
    assert_eq!((row.status.as_str(), row.attempts, row.crashes), ("done", 1, 0));
}

#[tokio::test]
async fn a_message_that_comes_again_after_it_was_settled_is_acknowledged() {
    for body in [
        json!({"end": "done"}),
        json!({"end": "skip", "reason": "not_found"}),
        json!({"end": "continue", "links": 0}),
        json!({"end": "dead", "reason": "void"}),
    ] {
        let world = world("after_it_was_settled").await;
        send_as(&world, "k", body.clone());
        world.drain("fixture").await;
        let before = runs(&world).await;
        let dead = world.dead_letters("fixture").len();

        send_as(&world, "k", body);
        let again = world.drain("fixture").await;

        assert_eq!((again.deliveries, again.returned), (1, 0));
        assert_eq!(runs(&world).await, before);
        assert_eq!(world.dead_letters("fixture").len(), dead);
    }
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_does_not_begin_early_because_a_copy_came() {
    let world = world("a_copy_while_it_waits").await;
    send_as(
        &world,
        "k",
        json!({"end": "retry", "error": "no answer", "attempts": 1}),
    );
    world.pump("fixture").await;

    send_as(&world, "k", json!({"end": "done"}));
    let copy = world.pump("fixture").await;

    assert_eq!((copy.deliveries, copy.returned), (1, 1));
    assert_eq!(run(&world, "k").await.attempts, 1);
    world.drain("fixture").await;
    let row = run(&world, "k").await;
    assert_eq!((row.status.as_str(), row.attempts), ("done", 2));
}

#[tokio::test]
async fn what_comes_back_from_the_dlq_runs_again_with_fresh_attempts() {
    let world = world("redrive").await;
    send_as(
        &world,
        "k",
        json!({"end": "retry", "error": "no answer", "attempts": 9}),
    );
    world.drain("fixture").await;
    let [letter] = world.dead_letters("fixture").try_into().unwrap();

    let attributes = letter.attributes.clone();
    world
        .queue
        .send_with(&queue_name("fixture"), &*letter.body, attributes, Default::default());
    let again = world.drain("fixture").await;

    assert_eq!(again.deliveries, 3, "all its attempts anew");
    let row = run(&world, "k").await;
    assert_eq!(
        (row.status.as_str(), row.trigger.as_str(), row.attempts),
        ("dead", "redrive", 3)
    );
    let letters = world.dead_letters("fixture");
    assert_eq!(letters.len(), 2);
    let kept = |name: &str| letters[1].attributes[name] == letter.attributes[name];
    assert!(kept("runKey") && kept("reason") && kept("attempts"), "{letters:?}");
    assert!(kept("firstSeenAt"), "it is as old as it was: {letters:?}");
}

#[tokio::test]
async fn what_comes_back_from_the_dlq_and_works_is_done_for_good() {
    let world = world("redrive_done").await;
    send_as(&world, "k", json!({"end": "crash", "times": 3}));
    world.drain("fixture").await;
    let [letter] = world.dead_letters("fixture").try_into().unwrap();
    assert_eq!(run(&world, "k").await.status, "dead");

    for _ in 0..2 {
        // The second is a copy of the same dead letter.
        let mut attributes = letter.attributes.clone();
        attributes.insert("copy".into(), "yes".into());
        world.queue.send_with(
            &queue_name("fixture"),
            r#"{"end":"done"}"#,
            attributes,
            Default::default(),
        );
    }
    world.drain("fixture").await;

    let row = run(&world, "k").await;
    assert_eq!((row.status.as_str(), row.attempts, row.crashes), ("done", 1, 0));
    assert_eq!(world.dead_letters("fixture").len(), 1);
}
