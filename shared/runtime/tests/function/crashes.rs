//! A process that dies takes its batch with it; the ledger finds out who did it. And who lost the lease writes nothing.

use std::time::Duration;

use serde_json::json;

use crate::support::*;

const DEAD: &str = "the function crashed, or was killed, in 3 attempts of this message";

#[tokio::test]
async fn a_message_that_crashes_its_function_is_counted_and_dead_and_takes_no_neighbour_with_it() {
    let world = world("crash").await;
    let crash = send(&world, json!({"end": "crash", "times": 99}));
    let others: Vec<_> = (0..9).map(|_| send(&world, json!({"end": "done"}))).collect();

    world.pump("fixture").await;
    for (key, row) in runs(&world).await {
        assert_eq!(
            (row.status.as_str(), row.attempts, row.crashes),
            ("running", 1, 0),
            "{key}"
        );
    }
    let drained = world.drain("fixture").await;

    assert_eq!(drained.failures.len(), 2, "three crashes in all");
    let runs = runs(&world).await;
    let row = &runs[&crash];
    assert_eq!((row.status.as_str(), row.reason(), row.crashes), ("dead", DEAD, 3));
    assert_eq!(world.dead_letters("fixture")[0].attributes["reason"], DEAD);
    for id in &others {
        let row = &runs[id];
        assert_eq!(
            (row.status.as_str(), row.attempts, row.crashes),
            ("done", 1, 1),
            "{row:?}"
        );
    }
    assert_eq!(world.dead_letters("fixture").len(), 1);
}

#[tokio::test]
async fn a_message_that_crashes_its_function_twice_and_then_works_is_done() {
    let world = world("crash_twice").await;
    let id = send(&world, json!({"end": "crash", "times": 2}));

    world.drain("fixture").await;

    let row = run(&world, &id).await;
    assert_eq!((row.status.as_str(), row.attempts, row.crashes), ("done", 1, 2));
}

#[tokio::test]
async fn who_only_waited_while_another_one_crashed_pays_nothing() {
    let world = world("crash_of_another").await;
    let innocent = send(&world, json!({"end": "done"}));
    let suspect = send(&world, json!({"end": "crash", "times": 99}));
    world.pump("fixture").await;
    world.advance(Duration::from_secs(180)).await;

    // The two are suspects now, and come together with a message that crashes its function at first sight.
    let fresh = send(&world, json!({"end": "crash", "times": 99}));
    world.pump("fixture").await;

    let before = runs(&world).await;
    assert_eq!(
        (before[&innocent].status.as_str(), before[&innocent].crashes),
        ("deferred", 1)
    );
    assert_eq!(
        (before[&suspect].status.as_str(), before[&suspect].crashes),
        ("deferred", 1)
    );
    assert_eq!(before[&fresh].status, "running");
    world.drain("fixture").await;
    let after = runs(&world).await;
    assert_eq!(
        (after[&innocent].status.as_str(), after[&innocent].attempts),
        ("done", 1)
    );
    assert_eq!((after[&suspect].reason(), after[&fresh].reason()), (DEAD, DEAD));
}

#[tokio::test]
async fn a_run_whose_lease_was_lost_writes_nothing_and_acknowledges_nothing() {
    for (name, body) in [
        ("done", json!({"end": "wait", "lock": LOCK})),
        ("progress", json!({"end": "progress", "lock": LOCK})),
    ] {
        let world = world("lost_lease").await;
        let mut signals = Signals::hold(&world).await;
        send_as(&world, name, body);

        let steal = async {
            let key = signals.waiting().await;
            sqlx::query("UPDATE job_runs SET lease_token = 'somebody else' WHERE run_key = $1")
                .bind(&key)
                .execute(&world.db)
                .await
                .unwrap();
            let stolen = run(&world, &key).await;
            signals.release().await;
            stolen
        };
        let (pumped, stolen) = tokio::join!(world.pump("fixture"), steal);

        assert_eq!(pumped.returned, 1);
        assert_eq!(run(&world, name).await, stolen);
        assert_eq!(stolen.progress, None);
        assert_eq!(world.queued("fixture").len(), 1);
    }
}

#[tokio::test]
async fn when_a_lease_ends_the_second_runner_decides_and_the_first_is_not_heard() {
    let world = world("second_runner").await;
    world.scale("fixture", 2);
    let mut signals = Signals::hold(&world).await;
    send_as(&world, "k", json!({"end": "progress", "lock": LOCK}));

    let second = async {
        signals.waiting().await;
        // Longer than the lease, shorter than SQS hides the message.
        world.advance(Duration::from_secs(60)).await;
        send_as(&world, "k", json!({"end": "wait", "lock": LOCK}));
        signals.waiting().await;
        let second = run(&world, "k").await;
        signals.release().await;
        second
    };
    let (pumped, second) = tokio::join!(world.pump("fixture"), second);

    assert_eq!((second.status.as_str(), second.crashes), ("running", 1));
    assert_eq!((pumped.deliveries, pumped.returned), (2, 1));
    let row = run(&world, "k").await;
    assert_eq!((row.status.as_str(), row.progress.as_ref()), ("done", None));
    world.drain("fixture").await;
    assert_eq!(run(&world, "k").await, row);
}

#[tokio::test]
async fn progress_is_in_the_ledger_while_the_run_goes_on() {
    let world = world("progress").await;
    let signals = Signals::hold(&world).await;
    let id = send(&world, json!({"end": "progress", "lock": LOCK}));
    signals.release().await;

    world.drain("fixture").await;

    assert_eq!(run(&world, &id).await.progress, Some(json!({"done": 1, "total": 2})));
}
