//! Slots, end to end: the clocks change, ticks fail to come, users move. The rule itself has its tests in `shared/digests`.

use serde_json::json;
use testkit::World;

use crate::{JOB, MONDAY, deliveries, delivery, notify, report, subscriber, tick};

/// Ticks of a quarter hour from `from` on; answers at which of them mail left.
async fn ticks(world: &World, from: &str, count: usize) -> Vec<String> {
    let from: chrono::DateTime<chrono::Utc> = from.parse().expect("what was written");
    let mut left = Vec::new();
    for n in 0..count {
        let at = from + chrono::Duration::minutes(15 * n as i64);
        let before = world.mailbox.accepted();
        tick(world, &at.to_rfc3339()).await;
        if world.mailbox.accepted() > before {
            left.push(at.format("%dT%H:%M").to_string());
        }
    }
    left
}

#[tokio::test]
async fn a_digest_leaves_once_when_the_clocks_change() {
    for (name, zone, hour, from, leaves) in [
        // 02:00 is skipped, and comes after the gap.
        ("spring", "Europe/Berlin", 2, "2025-03-30T00:00:00Z", "30T01:00"),
        // 02:00 comes twice, and is its first half.
        ("autumn", "Europe/Berlin", 2, "2025-10-25T23:00:00Z", "26T00:00"),
        // The gap is half an hour long.
        (
            "lord_howe",
            "Australia/Lord_Howe",
            2,
            "2025-10-04T14:30:00Z",
            "04T15:30",
        ),
        // No clocks change; the offset is 5:45.
        ("kathmandu", "Asia/Kathmandu", 9, "2025-10-26T02:00:00Z", "26T03:15"),
    ] {
        let world = World::new(&format!("a_digest_leaves_once_in_{name}")).await;
        let settings = format!("digest_frequency = 'DAILY', time_zone = '{zone}', digest_hour = {hour}");
        let ann = subscriber(&world, "Ann", &settings).await;
        for hour in 12..24 {
            let from: chrono::DateTime<chrono::Utc> = from.parse().expect("what was written");
            let at = from - chrono::Duration::hours(i64::from(hour) - 12);
            notify(&world, &ann, "LICENSE", "LOW", &at.to_rfc3339()).await;
        }
        assert_eq!(ticks(&world, from, 16).await, [leaves], "{name}");
    }
}

#[tokio::test]
async fn a_missed_slot_is_caught_up_with_for_twelve_hours() {
    let world = World::new("a_missed_slot_is_caught_up_with").await;
    let (ann, bob) = (
        subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await,
        subscriber(&world, "Bob", "digest_frequency = 'DAILY', digest_hour = 23").await,
    );
    for user in [&ann, &bob] {
        notify(&world, user, "LICENSE", "LOW", "2025-10-20T08:00:00Z").await;
    }
    // Three hours late for Ann; thirteen for Bob, whose slot was the day before at 23:00.
    tick(&world, "2025-10-20T12:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "SENT", 1)]);
    assert_eq!(deliveries(&world, &bob).await, []);
    // What it would have carried comes next.
    tick(&world, "2025-10-20T23:00:00Z").await;
    assert_eq!(deliveries(&world, &bob).await, [delivery("2025-10-20", "SENT", 1)]);
}

#[tokio::test]
async fn a_user_who_moves_gets_no_second_digest_within_twelve_hours() {
    let world = World::new("a_user_who_moves_gets_no_second").await;
    let ann = subscriber(
        &world,
        "Ann",
        "digest_frequency = 'DAILY', time_zone = 'Pacific/Auckland'",
    )
    .await;
    notify(&world, &ann, "LICENSE", "LOW", "2025-10-20T10:00:00Z").await;
    tick(&world, "2025-10-20T20:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-21", "SENT", 1)]);
    // In Honolulu the 20th begins its morning an hour before.
    world.prefers(&ann, "time_zone = 'Pacific/Honolulu'").await;
    notify(&world, &ann, "LICENSE", "LOW", "2025-10-20T20:01:00Z").await;
    tick(&world, "2025-10-20T20:15:00Z").await;
    assert_eq!(deliveries(&world, &ann).await.len(), 1);
    world.prefers(&ann, "time_zone = 'Europe/London'").await;
    tick(&world, "2025-10-22T08:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await[1..], [delivery("2025-10-22", "SENT", 1)]);
}

#[tokio::test]
async fn an_unknown_zone_is_utc_and_stops_nobody() {
    let world = World::new("an_unknown_zone_is_utc").await;
    let (ann, bob) = (
        subscriber(&world, "Ann", "digest_frequency = 'DAILY', time_zone = 'Mars/Olympus'").await,
        subscriber(&world, "Bob", "digest_frequency = 'DAILY'").await,
    );
    for user in [&ann, &bob] {
        notify(&world, user, "LICENSE", "LOW", "2025-10-20T08:00:00Z").await;
    }
    tick(&world, MONDAY).await;
    assert_eq!(world.mailbox.accepted(), 2);
    assert_eq!(report(&world).await["unknownZones"], 1);
}

#[tokio::test]
async fn a_forced_digest_ignores_the_clock_and_comes_once() {
    let world = World::new("a_forced_digest_ignores_the_clock").await;
    let (ann, bob) = (
        subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await,
        subscriber(&world, "Bob", "digest_frequency = 'DAILY'").await,
    );
    for user in [&ann, &bob] {
        notify(&world, user, "LICENSE", "LOW", "2025-10-20T14:00:00Z").await;
    }
    let forced = |trigger: &str| json!({ "frequency": "daily", "asOf": "2025-10-20T15:00:00Z", "userIds": [&ann], "force": true, "triggerId": trigger });
    world.deliver(JOB, [forced("t1"), forced("t1")]).await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("M:t1", "SENT", 1)]);
    assert_eq!(deliveries(&world, &bob).await, []);
    world.deliver(JOB, [forced("t2")]).await;
    assert_eq!(deliveries(&world, &ann).await[1..], [delivery("M:t2", "EMPTY", 0)]);
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn messages_that_make_no_sense_are_dead_with_a_reason() {
    let world = World::new("messages_that_make_no_sense").await;
    let bodies = [
        (json!({}), "missing field `frequency`"),
        (json!({ "frequency": "HOURLY" }), "not DAILY, WEEKLY or ALL"),
        (
            json!({ "frequency": "ALL", "asOf": chrono::Utc::now() + chrono::Duration::minutes(6) }),
            "is in the future",
        ),
        (
            json!({ "frequency": "ALL", "userIds": ["a"], "force": true }),
            "`force` needs a `triggerId`",
        ),
        (
            json!({ "frequency": "ALL", "triggerId": "t", "force": true }),
            "`force` needs `userIds`",
        ),
        (
            json!({ "frequency": "ALL", "userIds": vec!["a"; 101] }),
            "more than 100 ids",
        ),
        (json!({ "frequency": "ALL", "cursor": "" }), "an id is"),
    ];
    world.refuses(JOB, &bodies).await;
}
