//! Time runs out: never for a neighbour, never unseen.

use std::time::Duration;

use serde_json::json;

use crate::support::*;

const OUT_OF_TIME: &str = "ran out of time before the function's deadline";

#[tokio::test]
async fn what_hangs_is_stopped_before_the_deadline_and_its_neighbours_are_done() {
    let world = world("hang").await;
    define(&world, |job| job.timeout = Duration::from_secs(4));
    let hangs = send(&world, json!({"end": "hang"}));
    let others: Vec<_> = (0..3).map(|_| send(&world, json!({"end": "done"}))).collect();

    let pumped = world.pump("fixture").await;

    assert_eq!((pumped.failures, pumped.returned), (vec![], 1));
    let runs = runs(&world).await;
    let row = &runs[&hangs];
    assert_eq!(
        (row.status.as_str(), row.error.as_deref(), row.attempts),
        ("retrying", Some(OUT_OF_TIME), 1)
    );
    for id in &others {
        assert_eq!(runs[id].status, "done");
    }
}

#[tokio::test]
async fn what_hangs_in_the_database_with_all_connections_costs_its_neighbours_nothing() {
    let world = world("hang_in_the_database").await;
    define(&world, |job| job.timeout = Duration::from_secs(4));
    let signals = Signals::hold(&world).await;
    let hang: Vec<_> = (0..2)
        .map(|_| send(&world, json!({"end": "wait", "lock": LOCK})))
        .collect();
    let others: Vec<_> = (0..3).map(|_| send(&world, json!({"end": "done"}))).collect();
    let dead = send(&world, json!({"end": "dead", "reason": "void"}));

    let pumped = world.pump("fixture").await;
    signals.release().await;

    assert_eq!((pumped.failures, pumped.returned), (vec![], 2));
    let runs = runs(&world).await;
    for id in &hang {
        assert_eq!(
            (runs[id].status.as_str(), runs[id].error.as_deref()),
            ("retrying", Some(OUT_OF_TIME))
        );
    }
    for id in &others {
        assert_eq!(runs[id].status, "done");
    }
    assert_eq!(runs[&dead].status, "dead");
    assert_eq!(world.dead_letters("fixture").len(), 1);
}

#[tokio::test]
async fn what_there_is_no_time_for_is_handed_back_unharmed() {
    let world = world("handed_back").await;
    // Below the two seconds that the fixture declares as its minimum.
    define(&world, |job| job.timeout = Duration::from_millis(1900));
    let done = json!({"end": "done"});

    let answer = world
        .invoke("fixture", batch(&[("a", done.clone()), ("b", done)]))
        .await;

    assert_eq!(answer.unwrap(), failed(&["a", "b"]));
    for row in runs(&world).await.values() {
        assert_eq!((row.status.as_str(), row.attempts, row.crashes), ("deferred", 0, 0));
        assert_eq!(row.reason(), "handed back: too little time was left to begin");
    }
}
