//! `outbox-relay`, the built function on a real database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::World;
use testkit::faults;

const JOB: &str = "outbox-relay";

/// Messages that a crash left behind: committed, and no longer their writer's.
async fn left_behind(world: &World, queue: &str, bodies: &[String]) {
    sqlx::query(
        "INSERT INTO outbox (queue, body, attributes, delay_seconds, claimed_until)
         SELECT $1, body, '{\"traceparent\": \"t\", \"runKey\": \"k\"}', 60, now() - interval '1 second'
         FROM unnest($2::text[]) WITH ORDINALITY AS m (body, n) ORDER BY n",
    )
    .bind(queue)
    .bind(bodies)
    .execute(&world.db)
    .await
    .expect("the database");
}

async fn outbox(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT body FROM outbox ORDER BY id")
        .fetch_all(&world.db)
        .await
        .expect("the database")
}

async fn tick(world: &World) -> Value {
    assert_eq!(
        world.invoke(JOB, json!({})).await.expect("an answer"),
        json!({"settled": true})
    );
    sqlx::query_scalar("SELECT report FROM job_runs WHERE job = $1 ORDER BY started_at DESC LIMIT 1")
        .bind(JOB)
        .fetch_one(&world.db)
        .await
        .expect("the database")
}

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"n\":{n}}}")).collect()
}

fn sent(world: &World, queue: &str) -> Vec<String> {
    world.queued(queue).into_iter().map(|message| message.body).collect()
}

#[tokio::test]
async fn a_tick_with_nothing_due_sends_nothing() {
    let world = World::new("nothing_due").await;
    assert_eq!(tick(&world).await, json!({"sent": 0, "left": 0}));
}

#[tokio::test]
async fn what_was_left_behind_leaves_in_order_as_it_was_written() {
    let world = World::new("left_behind").await;
    left_behind(&world, "target", &bodies(12)).await;

    assert_eq!(tick(&world).await, json!({"sent": 12, "left": 0}));

    assert_eq!(sent(&world, "target"), bodies(12));
    let attributes = BTreeMap::from([("runKey", "k"), ("traceparent", "t")]);
    for message in world.queued("target") {
        let found: BTreeMap<_, _> = message.attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            (found, message.hidden_for),
            (attributes.clone(), Duration::from_secs(60))
        );
    }
    assert!(outbox(&world).await.is_empty());
}

#[tokio::test]
async fn what_its_writer_may_still_be_sending_stays() {
    let world = World::new("still_sending").await;
    left_behind(&world, "target", &bodies(1)).await;
    sqlx::query("INSERT INTO outbox (queue, body) VALUES ('target', '{}')")
        .execute(&world.db)
        .await
        .unwrap();

    assert_eq!(tick(&world).await, json!({"sent": 1, "left": 0}));
    assert_eq!(outbox(&world).await, ["{}"]);
    world.advance(Duration::from_secs(31)).await;
    assert_eq!(tick(&world).await, json!({"sent": 1, "left": 0}));
    assert_eq!(sent(&world, "target").len(), 2);
}

#[tokio::test]
async fn two_relays_at_once_share_the_work_and_send_nothing_twice() {
    let world = World::new("two_relays").await;
    world.scale(JOB, 2);
    left_behind(&world, "target", &bodies(450)).await;

    let (first, second) = tokio::join!(world.invoke(JOB, json!({})), world.invoke(JOB, json!({})));

    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (json!({"settled": true}), json!({"settled": true}))
    );
    let mut sent = sent(&world, "target");
    let mut expected = bodies(450);
    sent.sort();
    expected.sort();
    assert_eq!(sent, expected);
    assert!(outbox(&world).await.is_empty());
}

#[tokio::test]
async fn what_a_queue_refuses_stays_and_keeps_nothing_else_back() {
    let world = World::new("refused").await;
    left_behind(
        &world,
        "target",
        &["{\"n\":0}".into(), "\u{1}".into(), "{\"n\":2}".into()],
    )
    .await;
    left_behind(&world, "no such queue", &["{}".into()]).await;
    left_behind(&world, "other", &["{}".into()]).await;

    assert_eq!(tick(&world).await, json!({"sent": 3, "left": 2}));

    assert_eq!(sent(&world, "target"), ["{\"n\":0}", "{\"n\":2}"]);
    assert_eq!(sent(&world, "other"), ["{}"]);
    assert_eq!(outbox(&world).await, ["\u{1}", "{}"]);
    // It is tried again with every tick, and the ticks go on.
    world.advance(Duration::from_secs(60)).await;
    left_behind(&world, "other", &["{}".into()]).await;
    assert_eq!(tick(&world).await, json!({"sent": 1, "left": 2}));
}

#[tokio::test]
async fn a_message_that_fills_sqs_leaves_alone() {
    let world = World::new("large").await;
    let large: Vec<_> = (0..3)
        .map(|n| format!("{{\"n\":\"{}\"}}", n.to_string().repeat(700_000)))
        .collect();
    left_behind(&world, "target", &large).await;

    assert_eq!(tick(&world).await, json!({"sent": 3, "left": 0}));
    assert!(sent(&world, "target") == large);
}

#[tokio::test]
async fn whatever_fails_every_message_leaves_with_a_later_tick_at_the_latest() {
    faults::everywhere("relay", async |world| {
        // Then the same calls are made in the same order every time: each connection prepares its statements for itself.
        world.set("DATABASE_POOL_SIZE", "1");
        left_behind(world, "target", &bodies(3)).await;

        world
            .deliver(JOB, [json!({"asOf": "2025-10-20T09:00:00Z", "schedule": "tick"})])
            .await;
        while !outbox(world).await.is_empty() {
            world.advance(Duration::from_secs(60)).await;
            world.deliver(JOB, [json!({})]).await;
        }

        let mut sent = sent(world, "target");
        sent.sort();
        sent.dedup();
        assert_eq!(sent, bodies(3));
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
