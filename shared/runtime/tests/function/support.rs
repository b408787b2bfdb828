use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::{Postgres, Transaction};
use testkit::World;
use testkit::world::{Job, binary, queue_name};

/// Any lock, as long as waiting messages and [`Signals`] mean the same.
pub const LOCK: i64 = 7;

/// A world that has the fixture.
pub async fn world(name: &str) -> World {
    let world = World::new(name).await;
    define(&world, |_| {});
    world
}

pub fn define(world: &World, change: impl FnOnce(&mut Job)) {
    let mut job = Job::new(binary("fixture"));
    change(&mut job);
    world.define("fixture", job);
}

/// Sends one message; its id is its run key.
pub fn send(world: &World, body: Value) -> String {
    world.queue.send(&queue_name("fixture"), body.to_string())
}

pub fn send_as(world: &World, run_key: &str, body: Value) {
    send_with(world, &body.to_string(), &[("runKey", run_key)]);
}

pub fn send_with(world: &World, body: &str, attributes: &[(&str, &str)]) -> String {
    let attributes = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    world
        .queue
        .send_with(&queue_name("fixture"), body, attributes, Duration::ZERO)
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Row {
    pub run_key: String,
    pub status: String,
    pub trigger: String,
    pub attempts: i32,
    pub crashes: i32,
    pub lease_token: Option<String>,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub report: Option<Value>,
    pub progress: Option<Value>,
    pub trace_id: Option<String>,
}

impl Row {
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
}

pub async fn runs(world: &World) -> BTreeMap<String, Row> {
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM job_runs WHERE job = 'fixture'")
        .fetch_all(&world.db)
        .await
        .expect("the ledger");
    rows.into_iter().map(|row| (row.run_key.clone(), row)).collect()
}

pub async fn run(world: &World, key: &str) -> Row {
    runs(world)
        .await
        .remove(key)
        .unwrap_or_else(|| panic!("no run {key:?} in the ledger"))
}

pub async fn count(world: &World, table: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
        .fetch_one(&world.db)
        .await
        .expect("the table")
}

/// An event of the event source, with messages that no queue knows.
pub fn batch(records: &[(&str, Value)]) -> Value {
    let record = |(id, body): &(&str, Value)| {
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        json!({
            "messageId": id, "receiptHandle": "none", "body": body, "messageAttributes": {}, "eventSource": "aws:sqs",
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
        })
    };
    json!({"Records": records.iter().map(record).collect::<Vec<_>>()})
}

/// The answer that hands back these messages.
pub fn failed(ids: &[&str]) -> Value {
    json!({"batchItemFailures": ids.iter().map(|id| json!({"itemIdentifier": id})).collect::<Vec<_>>()})
}

/// Stops messages that wait for [`LOCK`], and hears of them.
pub struct Signals {
    lock: Transaction<'static, Postgres>,
    waiting: PgListener,
}

impl Signals {
    pub async fn hold(world: &World) -> Self {
        let mut waiting = PgListener::connect_with(&world.db).await.expect("a connection");
        waiting.listen("waiting").await.expect("a channel");
        let mut lock = world.db.begin().await.expect("a transaction");
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(LOCK)
            .execute(&mut *lock)
            .await
            .expect("the lock");
        Self { lock, waiting }
    }

    /// The next run that has begun to wait.
    pub async fn waiting(&mut self) -> String {
        self.waiting.recv().await.expect("a signal").payload().to_owned()
    }

    /// Lets them all go on.
    pub async fn release(self) {
        self.lock.commit().await.expect("the end of the lock");
    }
}
