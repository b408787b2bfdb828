//! The ledger `job_runs`: claim, finish, progress. Two statements a batch, a third when runs come twice.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jobs::Timestamp;
use serde_json::Value;
use services::outbox::Departure;
use services::{Error, Outgoing};
use sqlx::{PgConnection, PgPool};

use crate::event::RUN_KEY;

/// A run that wants to begin.
#[derive(Clone, Debug)]
pub(crate) struct Application {
    pub run_key: String,
    pub trigger: &'static str,
    pub message_id: String,
    pub as_of: Option<Timestamp>,
    pub first_seen_at: Timestamp,
    pub trace_id: String,
}

/// What the ledger says to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Ours: this is attempt `attempt`, after `crashes` that vanished.
    Granted { attempt: u32, crashes: u32 },
    /// Settled before.
    Settled { dead: bool },
    /// Running elsewhere, or not due yet: come back then.
    Later(Duration),
}

/// Claims runs for `token`: one statement, and a second for those that are not granted. Keys must be distinct; they are taken in
/// order, so that two batches with the same runs do not lock each other out.
///
/// The conflict goes by the primary key whatever the planner believes: a statement that looks runs up by `job = $1` reads all runs
/// of a job that the statistics do not know yet.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    job: &str,
    token: &str,
    lease: Duration,
    runs: &[Application],
) -> Result<HashMap<String, Claim>, Error> {
    let mut runs: Vec<_> = runs.iter().collect();
    runs.sort_unstable_by(|a, b| a.run_key.cmp(&b.run_key));
    let column = |f: fn(&Application) -> String| runs.iter().map(|run| f(run)).collect::<Vec<_>>();
    let as_of: Vec<_> = runs.iter().map(|run| run.as_of).collect();
    let first_seen: Vec<_> = runs.iter().map(|run| run.first_seen_at).collect();
    let granted = sqlx::query!(
        "WITH loose AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
         INSERT INTO job_runs AS r (job, run_key, status, trigger, message_id, as_of, attempts, lease_token, lease_until, first_seen_at,
                                    started_at, trace_id)
         SELECT $1, i.run_key, 'running', i.trigger, i.message_id, i.as_of, 1, $2, clock_timestamp() + make_interval(secs => $3),
                i.first_seen_at, clock_timestamp(), i.trace_id
         FROM loose, unnest($4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::text[])
             AS i (run_key, trigger, message_id, as_of, first_seen_at, trace_id)
         ON CONFLICT (job, run_key) DO UPDATE
         SET status = 'running', trigger = EXCLUDED.trigger, message_id = EXCLUDED.message_id, trace_id = EXCLUDED.trace_id,
             attempts = CASE r.status WHEN 'dead' THEN 1 WHEN 'running' THEN r.attempts ELSE r.attempts + 1 END,
             crashes = CASE r.status WHEN 'dead' THEN 0 WHEN 'running' THEN r.crashes + 1 ELSE r.crashes END,
             lease_token = EXCLUDED.lease_token, lease_until = EXCLUDED.lease_until, started_at = EXCLUDED.started_at,
             finished_at = NULL, next_attempt_at = NULL
         WHERE (r.status IN ('retrying', 'deferred') AND r.next_attempt_at <= clock_timestamp() + interval '1 second')
            OR (r.status = 'running' AND r.lease_until < clock_timestamp())
            OR (r.status = 'dead' AND EXCLUDED.trigger = 'redrive')
         RETURNING run_key, attempts, crashes",
        job,
        token,
        lease.as_secs_f64(),
        &column(|run| run.run_key.clone()),
        &column(|run| run.trigger.to_owned()),
        &column(|run| run.message_id.clone()),
        &as_of as _,
        &first_seen,
        &column(|run| run.trace_id.clone()),
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut claims: HashMap<_, _> = granted
        .into_iter()
        .map(|row| {
            let claim = Claim::Granted {
                attempt: row.attempts.unsigned_abs(),
                crashes: row.crashes.unsigned_abs(),
            };
            (row.run_key, claim)
        })
        .collect();
    let others = runs.iter().map(|run| &run.run_key);
    let others: Vec<_> = others.filter(|key| !claims.contains_key(*key)).cloned().collect();
    if !others.is_empty() {
        claims.extend(look_up(connection, job, &others).await?);
    }
    for run in runs {
        // Its row was deleted meanwhile: it comes back, and is new.
        claims.entry(run.run_key.clone()).or_insert(Claim::Later(lease));
    }
    Ok(claims)
}

/// Why runs were not granted.
async fn look_up(connection: &mut PgConnection, job: &str, run_keys: &[String]) -> Result<Vec<(String, Claim)>, Error> {
    let jobs = vec![job.to_owned(); run_keys.len()];
    let rows = sqlx::query!(
        r#"SELECT run_key AS "run_key!", status,
                  coalesce(greatest(0, extract(epoch FROM coalesce(lease_until, next_attempt_at) - clock_timestamp())), 0)::float8 AS "wait!"
           FROM unnest($1::text[], $2::text[]) AS k (job, run_key) JOIN job_runs USING (job, run_key)"#,
        &jobs,
        run_keys,
    )
    .fetch_all(connection)
    .await?;
    let claim = |status: &str, wait| match status {
        "running" | "deferred" | "retrying" => Claim::Later(Duration::from_secs_f64(wait)),
        settled => Claim::Settled {
            dead: settled == "dead",
        },
    };
    Ok(rows
        .into_iter()
        .map(|row| (row.run_key, claim(&row.status, row.wait)))
        .collect())
}

/// How a run leaves `running`.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub run_key: String,
    pub status: &'static str,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub report: Option<Value>,
    /// For `deferred` and `retrying`.
    pub wait: Duration,
    /// The attempt does not count.
    pub refund: bool,
    /// Leaves with the commit: a dead letter or a continuation.
    pub departure: Option<Outgoing>,
}

impl Ending {
    /// An ending with nothing but its status.
    pub(crate) fn new(run_key: &str, status: &'static str) -> Self {
        Self {
            run_key: run_key.to_owned(),
            status,
            reason: None,
            error: None,
            report: None,
            wait: Duration::ZERO,
            refund: false,
            departure: None,
        }
    }
}

/// What finishing did.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    /// The runs that were still ours.
    pub run_keys: Vec<String>,
    /// To be sent now.
    pub departures: Vec<Departure>,
}

/// Finishes runs that `token` still holds, and writes what leaves with them, in one statement.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    job: &str,
    token: &str,
    endings: &[Ending],
) -> Result<Finished, Error> {
    let column = |f: fn(&Ending) -> Option<String>| endings.iter().map(f).collect::<Vec<_>>();
    let keys: Vec<_> = endings.iter().map(|e| e.run_key.clone()).collect();
    // A column, and no constant, for the same reason as in `claim`; nor is there a condition on the status, whose index is full of runs
    // that were running: who has the token is.
    let jobs = vec![job.to_owned(); endings.len()];
    let statuses: Vec<_> = endings.iter().map(|e| e.status.to_owned()).collect();
    let reports: Vec<_> = endings.iter().map(|e| e.report.clone().map(storable)).collect();
    let waits: Vec<_> = endings.iter().map(|e| e.wait.as_secs_f64()).collect();
    let refunds: Vec<_> = endings.iter().map(|e| i32::from(e.refund)).collect();
    let leaving: Vec<_> = endings
        .iter()
        .filter_map(|e| e.departure.as_ref().map(|d| (e.run_key.clone(), d)))
        .collect();
    let owners: Vec<_> = leaving.iter().map(|(owner, _)| owner.clone()).collect();
    let queues: Vec<_> = leaving.iter().map(|(_, d)| d.queue.clone()).collect();
    let bodies: Vec<_> = leaving.iter().map(|(_, d)| d.body.clone()).collect();
    let attributes: Vec<_> = leaving.iter().map(|(_, d)| serde_json::json!(d.attributes)).collect();
    let delays: Vec<_> = leaving.iter().map(|(_, d)| d.delay_seconds()).collect();
    let rows = sqlx::query!(
        r#"WITH loose AS MATERIALIZED (SELECT set_config('synchronous_commit', CASE WHEN cardinality($10::text[]) = 0 THEN 'off' ELSE 'on' END, true)
           ), finished AS (
               UPDATE job_runs r
               SET status = e.status, reason = e.reason, error = e.error, report = e.report, attempts = r.attempts - e.refund,
                   next_attempt_at = CASE WHEN e.status IN ('deferred', 'retrying') THEN clock_timestamp() + make_interval(secs => e.wait) END,
                   open_since = CASE WHEN e.status IN ('deferred', 'retrying', 'dead') THEN coalesce(r.open_since, clock_timestamp()) END,
                   lease_token = NULL, lease_until = NULL, finished_at = clock_timestamp()
               FROM loose, unnest($1::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::float8[], $9::int[])
                   AS e (job, run_key, status, reason, error, report, wait, refund)
               WHERE r.job = e.job AND r.run_key = e.run_key AND r.lease_token = $2
               RETURNING r.run_key
           ), departing AS (
               INSERT INTO outbox (queue, body, attributes, delay_seconds)
               SELECT d.queue, d.body, d.attributes, d.delay_seconds
               FROM unnest($10::text[], $11::text[], $12::text[], $13::jsonb[], $14::int[]) AS d (run_key, queue, body, attributes, delay_seconds)
               JOIN finished USING (run_key)
               RETURNING id, queue, attributes ->> 'runKey' AS run_key
           )
           SELECT run_key AS "run_key!", NULL::bigint AS outbox_id, NULL::text AS queue FROM finished
           UNION ALL
           SELECT run_key, id, queue FROM departing"#,
        &jobs,
        token,
        &keys,
        &statuses,
        &column(|e| e.reason.clone()) as _,
        &column(|e| e.error.clone()) as _,
        &reports as _,
        &waits,
        &refunds,
        &owners,
        &queues,
        &bodies,
        &attributes,
        &delays,
    )
    .fetch_all(connection)
    .await?;
    let messages: BTreeMap<_, _> = leaving
        .iter()
        .map(|(_, d)| {
            (
                (d.attributes.get(RUN_KEY).map_or("", String::as_str), d.queue.as_str()),
                *d,
            )
        })
        .collect();
    let mut finished = Finished::default();
    for row in rows {
        match (row.outbox_id, row.queue) {
            (Some(id), Some(queue)) => {
                let message = messages
                    .get(&(row.run_key.as_str(), queue.as_str()))
                    .map(|message| (*message).clone());
                finished
                    .departures
                    .extend(message.map(|message| Departure { id, message }));
            }
            _ => finished.run_keys.push(row.run_key),
        }
    }
    Ok(finished)
}

/// Notes how far a run has come. False when the lease is lost.
pub(crate) async fn progress(
    pool: &PgPool,
    job: &str,
    run_key: &str,
    token: &str,
    progress: Value,
) -> Result<bool, Error> {
    let noted = sqlx::query!(
        "UPDATE job_runs SET progress = $4 WHERE job = $1 AND run_key = $2 AND lease_token = $3",
        job,
        run_key,
        token,
        storable(progress),
    )
    .execute(pool)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Takes the exclusive lease `key`, or says for how long somebody else still has it.
pub(crate) async fn acquire(
    pool: &PgPool,
    key: &str,
    holder: &str,
    lease: Duration,
) -> Result<Result<(), Duration>, Error> {
    let taken = sqlx::query!(
        "INSERT INTO exclusive_leases AS l (key, holder, lease_until) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (key) DO UPDATE SET holder = EXCLUDED.holder, lease_until = EXCLUDED.lease_until
         WHERE l.lease_until < clock_timestamp() OR l.holder = EXCLUDED.holder",
        key,
        holder,
        lease.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(Ok(()));
    }
    let wait = sqlx::query_scalar!(
        r#"SELECT greatest(0, extract(epoch FROM lease_until - clock_timestamp()))::float8 AS "wait!" FROM exclusive_leases WHERE key = $1"#,
        key,
    )
    .fetch_optional(pool)
    .await?;
    Ok(Err(Duration::from_secs_f64(wait.unwrap_or(0.0))))
}

/// Gives exclusive leases back.
pub(crate) async fn release(pool: &PgPool, holder: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM exclusive_leases WHERE holder = $1", holder)
        .execute(pool)
        .await?;
    Ok(())
}

/// PostgreSQL has no place for the character NUL, in text or in JSON.
fn storable(value: Value) -> Value {
    let text = |text: String| text.replace('\0', "");
    match value {
        Value::String(string) => text(string).into(),
        Value::Array(values) => values.into_iter().map(storable).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (text(name), storable(value)))
            .collect(),
        other => other,
    }
}
