//! Work of which only one may run at a time.

use std::time::Duration;

use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_second_run_waits_without_using_an_attempt_until_the_lease_is_free() {
    let world = world("exclusive").await;
    world.scale("fixture", 2);
    let mut signals = Signals::hold(&world).await;
    let body = json!({"end": "exclusive", "key": "index", "lock": LOCK});
    send_as(&world, "first", body.clone());

    let second = async {
        assert_eq!(signals.waiting().await, "first");
        let answer = world
            .invoke("fixture", batch(&[("second", body.clone())]))
            .await
            .unwrap();
        let row = run(&world, "second").await;
        signals.release().await;
        (answer, row)
    };
    let (pumped, (answer, row)) = tokio::join!(world.pump("fixture"), second);

    assert_eq!(pumped.returned, 0);
    assert_eq!(answer, failed(&["second"]));
    assert_eq!((row.status.as_str(), row.attempts), ("deferred", 0));
    assert_eq!(row.reason(), "another run holds `index`");
    assert_eq!(count(&world, "exclusive_leases").await, 0, "given back at the end");
    world.advance(Duration::from_secs(60)).await;
    send_as(&world, "second", body);
    world.drain("fixture").await;
    let row = run(&world, "second").await;
    assert_eq!((row.status.as_str(), row.attempts), ("done", 1));
}

#[tokio::test]
async fn runs_of_one_batch_that_want_the_same_lease_run_one_after_another() {
    let world = world("exclusive_batch").await;
    let body = json!({"end": "exclusive", "key": "index", "lock": LOCK});
    let ids: Vec<_> = (0..4).map(|_| send(&world, body.clone())).collect();

    world.drain("fixture").await;

    let runs = runs(&world).await;
    for id in &ids {
        assert_eq!((runs[id].status.as_str(), runs[id].attempts), ("done", 1));
    }
    assert_eq!(count(&world, "exclusive_leases").await, 0);
}

#[tokio::test]
async fn a_lease_whose_holder_crashed_ends_by_itself() {
    let world = world("exclusive_crash").await;
    send_as(&world, "first", json!({"end": "exclusiveCrash", "key": "index"}));
    world.pump("fixture").await;
    assert_eq!(count(&world, "exclusive_leases").await, 1);

    send_as(
        &world,
        "second",
        json!({"end": "exclusive", "key": "index", "lock": LOCK}),
    );
    world.pump("fixture").await;
    assert_eq!(run(&world, "second").await.status, "deferred");
    world.drain("fixture").await;

    let runs = runs(&world).await;
    assert_eq!((runs["second"].status.as_str(), runs["second"].crashes), ("done", 0));
    assert_eq!((runs["first"].status.as_str(), runs["first"].crashes), ("done", 1));
    assert_eq!(count(&world, "exclusive_leases").await, 0);
}
