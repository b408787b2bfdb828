use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::measure::{mib, reset_statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const DEAD: i64 = 1_000_000;
const LIVING: i64 = 1_000_000;
/// Pages of a run: the sweep is finished by continuations.
const PAGES: u32 = 64;

/// Every other key is dead, as keys of which some have been renewed are.
const KEYS: &str = "
    TRUNCATE idempotency_keys;
    INSERT INTO idempotency_keys (key, entity_type, entity_id, processed, response_status, response_body, created_at, expires_at)
    SELECT 'key-' || i, 'order', 'order-' || i, true, 201, '{\"id\": \"order\", \"ok\": true}', now() - interval '1 day',
           now() + CASE WHEN i % 2 = 0 THEN -1 ELSE 1 END * (interval '1 hour' + i * interval '10 milliseconds')
    FROM generate_series(1, 2000000) i";

/// Failed log-ins of two and a half hours at ten million a day: people who mistype, and three attacks.
const ATTEMPTS: &str = "
    INSERT INTO users (id, email) SELECT 'u' || i, 'user' || i || '@example.test' FROM generate_series(1, 100000) i;
    INSERT INTO audit_events (action, entity_type, entity_id, email, ip_address, after_state, timestamp)
    SELECT 'LOGIN_FAILED', 'user', 'unknown', 'User' || 1 + (random() * 99999)::int || '@Example.test',
           '10.' || (random() * 255)::int || '.' || (random() * 255)::int || '.' || (random() * 255)::int,
           '{\"reason\": \"INVALID_PASSWORD\"}', now() - random() * interval '150 minutes'
    FROM generate_series(1, 1041667);
    INSERT INTO audit_events (action, entity_type, entity_id, email, ip_address, after_state, timestamp)
    SELECT 'LOGIN_FAILED', 'user', 'unknown', 'user' || 1 + i % 500 || '@example.test', '192.0.2.1', '{\"reason\": \"INVALID_PASSWORD\"}',
           now() - random() * interval '10 minutes'
    FROM generate_series(1, 20000) i";

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    sweep(programs, &workshop).await?;
    watch(programs, &workshop).await?;
    Ok(())
}

async fn sweep(programs: &Programs, workshop: &Workshop) -> Result<()> {
    let (pool, url) = workshop.database("bench_sweep").await?;
    prepare(&pool, KEYS, "idempotency_keys").await?;
    let begun = Instant::now();
    let gone = sqlx::query("DELETE FROM idempotency_keys WHERE expires_at < now()")
        .execute(&pool)
        .await?;
    let plain = begun.elapsed();
    ensure!(
        gone.rows_affected() == DEAD.unsigned_abs(),
        "{} rows were dead",
        gone.rows_affected()
    );

    prepare(&pool, KEYS, "idempotency_keys").await?;
    let line = Line::start(programs, "idempotency-cleanup", Feed::ONE, &[("DATABASE_URL", url)]).await?;
    reset_statements(&pool).await?;
    line.send(json!({ "pages": PAGES }).to_string(), None);
    let wall = line.drain().await;
    let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();

    let report: Value =
        sqlx::query_scalar("SELECT report FROM job_runs WHERE job = 'idempotency-cleanup' AND status = 'done'")
            .fetch_one(&pool)
            .await?;
    ensure!(report["deleted"] == DEAD, "the last run reports {report}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_keys")
        .fetch_one(&pool)
        .await?;
    ensure!(left == LIVING, "{left} keys are left");
    let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM job_runs WHERE job = 'idempotency-cleanup'")
        .fetch_one(&pool)
        .await?;
    let (pages, longest) = pages(&pool, "%DELETE FROM idempotency_keys%").await?;
    println!("{DEAD} dead keys among {}\n", DEAD + LIVING);
    let row = [
        format!("{:.2}", wall.as_secs_f64()),
        format!("{:.2}", plain.as_secs_f64()),
        format!("{:.2}", wall.as_secs_f64() / plain.as_secs_f64()),
        runs.to_string(),
        pages.to_string(),
        format!("{longest:.0}"),
        format!("{:.1}", mib(memory)),
    ];
    let headings = ["wall s", "plain s", "× plain", "runs", "pages", "longest ms", "RSS MiB"];
    println!("{}", table::render(headings, &[row]));
    println!("plain: one DELETE of all of them, in this run\n");
    Ok(())
}

async fn watch(programs: &Programs, workshop: &Workshop) -> Result<()> {
    let (pool, url) = workshop.database("bench_watch").await?;
    prepare(&pool, ATTEMPTS, "audit_events").await?;
    let attempts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_events WHERE timestamp > now() - interval '30 minutes'")
            .fetch_one(&pool)
            .await?;
    let line = Line::start(programs, "failed-login-monitor", Feed::ONE, &[("DATABASE_URL", url)]).await?;
    reset_statements(&pool).await?;
    line.send("{}".to_owned(), None);
    let wall: Duration = line.drain().await;
    let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();

    let report: Value =
        sqlx::query_scalar("SELECT report FROM job_runs WHERE job = 'failed-login-monitor' AND status = 'done'")
            .fetch_one(&pool)
            .await?;
    ensure!(
        report["locked"] == 500 && report["ipSpray"] == 1,
        "the run reports {report}"
    );
    let (_, longest) = pages(&pool, "%ip_address, timestamp AS at%").await?;
    println!("a slot of failed log-ins at ten million a day: {attempts} attempts of half an hour, among a million\n");
    let row = [
        format!("{:.2}", wall.as_secs_f64()),
        format!("{longest:.0}"),
        report["alerts"].to_string(),
        report["locked"].to_string(),
        format!("{:.1}", mib(memory)),
    ];
    println!(
        "{}",
        table::render(["wall s", "longest ms", "alerts", "locked", "RSS MiB"], &[row])
    );
    Ok(())
}

/// Fills a table, and leaves nothing of that to be done later.
async fn prepare(pool: &PgPool, rows: &'static str, table: &str) -> Result<()> {
    sqlx::raw_sql(rows).execute(pool).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM (ANALYZE) {table}")))
        .execute(pool)
        .await?;
    sqlx::raw_sql("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// How often a statement ran, and how long at most, in milliseconds.
async fn pages(pool: &PgPool, like: &str) -> Result<(i64, f64)> {
    let sql = "SELECT sum(calls)::bigint, max(max_exec_time) FROM pg_stat_statements
               WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query LIKE $1";
    Ok(sqlx::query_as(sql).bind(like).fetch_one(pool).await?)
}
