//! For any stream of events and any schedule of runs, roll-ups say what the distinct events say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use testkit::World;

use crate::{AGGREGATE, JOB, ROLL_UP, last_monday, reconcile};

/// What happens, in this order.
#[derive(Clone, Debug)]
enum Step {
    /// Events are received.
    Receive(Vec<Event>),
    /// A run of hours, and what follows from it; its messages may be given out twice.
    Hourly,
    /// One of the days.
    Daily(u64),
    /// The last week.
    Weekly,
    /// The function dies; the next message starts another.
    Kill,
    /// The nightly repair.
    Reconcile,
}

#[derive(Clone, Debug)]
struct Event {
    /// Since the Monday before last.
    minute: i64,
    /// Of the receipt: events overtake each other.
    received_before: i64,
    actor: u8,
    asset: Option<u8>,
    kind: usize,
    cents: Option<u16>,
    key: Option<u8>,
    copies: usize,
}

/// What lies before the stream is complete: computing months of nothing proves nothing.
const COMPLETE_BEFORE: &str = "
    INSERT INTO metrics_aggregation_jobs_log (job_type, period_start_date, period_end_date, run_key, trigger, started_at, status)
    SELECT 'daily', d, d, 'daily-' || d, 'schedule', d + interval '2 days', 'COMPLETED'
    FROM generate_series($1::text::date - 120, $1::text::date - 1, '1 day') d
    UNION ALL
    SELECT 'weekly', d, d + interval '6 days', 'weekly-' || d, 'schedule', d + interval '8 days', 'COMPLETED'
    FROM generate_series($1::text::date - 7 * 12, $1::text::date - 7, '7 days') d
    UNION ALL
    SELECT 'monthly', d, d, 'monthly-' || d, 'schedule', d + interval '32 days', 'COMPLETED'
    FROM generate_series(date_trunc('month', $1::text::date) - interval '13 months', date_trunc('month', now()) - interval '1 month', '1 month') d";

/// Of two weeks, those on which something happens.
const DAYS: &[u64] = &[0, 6, 7, 8];

const KINDS: [&str; 4] = [
    "asset_viewed",
    "asset_downloaded",
    "license_created",
    "of_no_known_type",
];

fn event() -> impl Strategy<Value = Event> {
    (
        // Few distinct times: much is the same second.
        (prop::sample::select(DAYS), 0i64..4)
            .prop_map(|(day, quarter)| i64::try_from(day).expect("what was written") * 1440 + quarter * 360 + 180),
        0i64..300,
        0u8..3,
        prop::option::weighted(0.9, 0u8..2),
        0usize..4,
        prop::option::of(0u16..1000),
        prop::option::weighted(0.2, 0u8..20),
        1usize..3,
    )
        .prop_map(
            |(minute, received_before, actor, asset, kind, cents, key, copies)| Event {
                minute,
                received_before,
                actor,
                asset,
                kind,
                cents,
                key,
                copies,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(event(), 1..12).prop_map(Step::Receive),
        3 => Just(Step::Hourly),
        2 => prop::sample::select(DAYS).prop_map(Step::Daily),
        1 => Just(Step::Weekly),
        1 => Just(Step::Kill),
        1 => Just(Step::Reconcile),
    ]
}

fn first_monday() -> NaiveDate {
    last_monday().checked_sub_days(Days::new(7)).expect("what was written")
}

async fn receive(world: &World, events: &[Event]) {
    let monday = first_monday().and_hms_opt(0, 0, 0).expect("what was written").and_utc();
    let rows = events.iter().flat_map(|event| {
        let occurred = monday + TimeDelta::minutes(event.minute);
        let received = Utc::now() - TimeDelta::seconds(event.received_before);
        let row = json!({
            "occurred_at": occurred, "created_at": received, "event_type": KINDS[event.kind], "actor_id": format!("act_{}", event.actor),
            "ip_asset_id": event.asset.map(|asset| format!("ast_{asset}")), "props": {"revenueCents": event.cents},
            "idempotency_key": event.key.map(|key| format!("key_{key}")),
        });
        std::iter::repeat_n(row, event.copies)
    });
    world.events(Value::Array(rows.collect())).await;
}

async fn run(world: &World, steps: &[Step]) {
    world.queue.misbehave(0.3, true);
    for step in steps {
        match step {
            Step::Receive(events) => receive(world, events).await,
            Step::Hourly => drop(world.deliver(AGGREGATE, [json!({"action": "hourly"})]).await),
            Step::Daily(days) => {
                let date = first_monday()
                    .checked_add_days(Days::new(*days))
                    .expect("what was written");
                world
                    .deliver(AGGREGATE, [json!({"action": "daily", "date": date})])
                    .await;
            }
            Step::Weekly => {
                world.deliver(ROLL_UP, [json!({"jobType": "weekly"})]).await;
                world.drain(AGGREGATE).await;
            }
            Step::Kill => world.function(AGGREGATE).await.kill().await,
            Step::Reconcile => reconcile(world).await,
        }
    }
    // Once everything has been received, one hourly run and one night are enough.
    world.deliver(AGGREGATE, [json!({"action": "hourly"})]).await;
    reconcile(world).await;
    world.drain(AGGREGATE).await;
}

/// Sums by period and asset: views, clicks, conversions, cents, visitors.
type Sums = BTreeMap<(NaiveDate, String), [i64; 5]>;

/// The plain way: sort, drop what is the same, add up.
async fn expected(world: &World, period: fn(NaiveDate) -> NaiveDate) -> Sums {
    let rows = world.rows("SELECT * FROM events ORDER BY created_at, id").await;
    let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for row in &rows {
        let second = row["occurred_at"].as_str().expect("what was written")[..19].to_owned();
        let same = json!([row["event_type"], row["actor_id"], row["ip_asset_id"], second]);
        groups.entry(same.to_string()).or_default().push(row);
    }
    let mut sums = Sums::new();
    let mut visitors: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for group in groups.values() {
        let keyed_first = !group[0]["idempotency_key"].is_null();
        for (n, row) in group.iter().enumerate() {
            let distinct = n == 0 || keyed_first && !row["idempotency_key"].is_null();
            let (Some(asset), Some(kind)) = (
                row["ip_asset_id"].as_str(),
                KINDS[..3].iter().position(|kind| row["event_type"] == *kind),
            ) else {
                continue;
            };
            if !distinct {
                continue;
            }
            let occurred: DateTime<Utc> = row["occurred_at"]
                .as_str()
                .expect("what was written")
                .parse()
                .expect("what was written");
            let of = (period(occurred.date_naive()), asset.to_owned());
            let sum = sums.entry(of.clone()).or_default();
            sum[kind] += 1;
            sum[3] += row["props"]["revenueCents"].as_i64().unwrap_or(0);
            visitors.entry(of).or_default().insert(row["actor_id"].to_string());
        }
    }
    for (of, visitors) in visitors {
        sums.entry(of).or_default()[4] = i64::try_from(visitors.len()).expect("what was written");
    }
    sums
}

async fn stored(world: &World, sql: &str) -> Sums {
    let rows = world.rows(sql).await;
    let entry = |row: &Value| {
        let sums = ["views", "clicks", "conversions", "cents", "visitors"]
            .map(|column| row[column].as_i64().expect("what was written"));
        (
            (
                row["start"]
                    .as_str()
                    .expect("what was written")
                    .parse()
                    .expect("what was written"),
                row["asset"].as_str().expect("what was written").to_owned(),
            ),
            sums,
        )
    };
    rows.iter().map(entry).collect()
}

#[test]
fn roll_ups_are_those_of_the_distinct_events_whatever_came_when_and_ran_when() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: 5,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..8), |steps| {
        runtime.block_on(async {
            let world = World::new("property").await;
            // An hour that was aged by a minute would be no hour any more.
            world.hold("events.occurred_at");
            world.hold("hourly_metrics.hour");
            world.execute(COMPLETE_BEFORE, &[&first_monday().to_string()]).await;
            run(&world, &steps).await;

            let days = "SELECT date AS start, ip_asset_id AS asset, views, clicks, conversions, revenue_cents AS cents, unique_visitors AS visitors FROM daily_metrics";
            prop_assert_eq!(stored(&world, days).await, expected(&world, |date| date).await);
            let weeks = "SELECT week_start_date AS start, ip_asset_id AS asset, total_views AS views, total_clicks AS clicks, total_conversions AS conversions,
                                total_revenue_cents AS cents, unique_visitors AS visitors FROM weekly_metrics";
            let monday = |date: NaiveDate| date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into())).unwrap();
            prop_assert_eq!(stored(&world, weeks).await, expected(&world, monday).await);
            let hours = "SELECT (hour AT TIME ZONE 'UTC')::date AS start, ip_asset_id AS asset, sum(views)::int AS views, sum(clicks)::int AS clicks,
                                sum(conversions)::int AS conversions, sum(revenue_cents)::bigint AS cents, 0 AS visitors
                         FROM hourly_metrics GROUP BY 1, 2";
            let without_visitors = |(of, [a, b, c, d, _]): ((NaiveDate, String), [i64; 5])| (of, [a, b, c, d, 0]);
            let daily: Sums = expected(&world, |date| date).await.into_iter().map(without_visitors).collect();
            prop_assert_eq!(stored(&world, hours).await, daily);
            prop_assert_eq!(world.count("SELECT count(*) FROM metrics_dirty_periods").await, 0);
            for job in [AGGREGATE, ROLL_UP, JOB] {
                prop_assert!(world.dead_letters(job).is_empty());
            }
            Ok(())
        })
    });
    outcome.unwrap();
}
