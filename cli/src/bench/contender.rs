//! The project as one contender of a harness that compares job systems on the same workloads. The harness brings the database and
//! an SES; queue and event source are this process's own, and count as ours.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sqlx::PgPool;

use super::workshop::{Feed, Line, migrate};
use crate::environment::Workspace;

/// What to do.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Step {
    /// Fill the queue.
    Enqueue,
    /// Empty it.
    Work,
}

/// The harness's tables give way to ours and are copied into them. Its checks read ours, so they get the columns that the checks
/// name, generated from our own. LOW is mailed at once there, and never here: it becomes MEDIUM.
const ADOPT_NOTIFICATIONS: &str = "
    CREATE SCHEMA peers;
    ALTER TABLE notifications SET SCHEMA peers;
    ALTER TABLE email_preferences SET SCHEMA peers;
    ALTER TABLE users SET SCHEMA peers;";
const COPY_NOTIFICATIONS: &str = "
    INSERT INTO users (id, email, name, email_verified, is_active, deleted_at, created_at)
    SELECT id, email, name, created_at, is_active, deleted_at, created_at FROM peers.users;
    INSERT INTO email_preferences (user_id, digest_frequency, global_unsubscribe, license_expiry, payouts, royalty_statements, project_invitations, announcements, messages)
    SELECT user_id, digest_frequency, global_unsubscribe, license_expiry, payouts, royalty_statements, project_invitations, announcements, messages FROM peers.email_preferences;
    INSERT INTO notifications (id, user_id, type, title, message, action_url, priority, metadata, created_at)
    SELECT id, user_id, type, title, message, action_url, CASE priority WHEN 'LOW' THEN 'MEDIUM' ELSE priority END,
           metadata || jsonb_build_object('email_dedup_key', 'notif-' || id), created_at FROM peers.notifications;
    ALTER TABLE notifications
        ADD COLUMN in_app_delivered_at timestamptz GENERATED ALWAYS AS (in_app_at) STORED,
        ADD COLUMN email_sent_at timestamptz GENERATED ALWAYS AS (emailed_at) STORED,
        ADD COLUMN email_status text GENERATED ALWAYS AS (CASE email_state WHEN 'SENT' THEN 'sent' WHEN 'FAILED' THEN 'failed' WHEN 'SKIPPED' THEN 'skipped'
                                                               WHEN 'DIGEST' THEN 'skipped' ELSE 'pending' END) STORED,
        ADD COLUMN email_skip_reason text GENERATED ALWAYS AS (CASE WHEN email_state = 'DIGEST' THEN 'digest' WHEN email_state_reason = 'global_unsubscribe' THEN 'unsubscribed'
                                                                    WHEN email_state_reason = 'category_off' THEN 'type_disabled' ELSE email_state_reason END) STORED;
    -- The harness's SES has no quota to ask for.
    UPDATE email_sending_state SET max_send_rate = 100000, fetched_at = now() + interval '1 day';
    ANALYZE;";

pub(crate) async fn run(step: Step, workload: &str) -> Result<()> {
    let pool = PgPool::connect(&variable("DATABASE_URL")?).await?;
    match (step, workload) {
        (Step::Enqueue, "a" | "a50") => enqueue_notifications(&pool).await,
        (Step::Enqueue, "noop" | "noop100") => {
            migrate(&pool).await?;
            append((0..number("JOBS", 20_000)).map(|_| json!({"end": "done"}).to_string()))
        }
        (Step::Work, "a" | "a50") => work_notifications(&pool).await,
        (Step::Work, "noop" | "noop100") => work(&pool, "fixture", number("CONCURRENCY", 10)).await.map(drop),
        _ => bail!("`{workload}` is not among the workloads that exist yet: a, a50, noop, noop100"),
    }
}

async fn enqueue_notifications(pool: &PgPool) -> Result<()> {
    let adopted: bool = sqlx::query_scalar("SELECT to_regnamespace('peers') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !adopted {
        sqlx::raw_sql(ADOPT_NOTIFICATIONS).execute(pool).await?;
        migrate(pool).await?;
        sqlx::raw_sql(COPY_NOTIFICATIONS).execute(pool).await?;
    }
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM notifications ORDER BY created_at")
        .fetch_all(pool)
        .await?;
    append(ids.into_iter().map(|id| json!({"notificationId": id}).to_string()))
}

/// The queue survives a killed worker as SQS does: it is a file, a message a line.
fn file() -> Result<PathBuf> {
    Ok(std::env::temp_dir().join(format!("jobs-contender-{}.jsonl", variable("PGDATABASE")?)))
}

fn append(bodies: impl Iterator<Item = String>) -> Result<()> {
    let path = file()?;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(bodies.map(|body| body + "\n").collect::<String>().as_bytes())
        .with_context(|| path.display().to_string())
}

async fn work_notifications(pool: &PgPool) -> Result<()> {
    let in_flight = number("CONCURRENCY", 10);
    // One function whose batches are larger than what it has in flight: the mails never wait for the database.
    let line = work(pool, "notification-delivery", 10 * in_flight).await?;
    drop(line);
    settle(pool).await
}

async fn work(pool: &PgPool, job: &str, batch: usize) -> Result<Line> {
    let begun = Instant::now();
    let environment = [
        ("DATABASE_URL", variable("DATABASE_URL")?),
        (
            "AWS_ENDPOINT_URL_SESV2",
            std::env::var("AWS_ENDPOINT_URL_SESV2").unwrap_or_default(),
        ),
        ("EMAIL_MAX_IN_FLIGHT", number("CONCURRENCY", 10).to_string()),
    ];
    let line = Line::start(&Workspace::current(), job, Feed { batch, instances: 1 }, &environment).await?;
    let path = file()?;
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (n, body) in text.lines().enumerate() {
        line.send(body.to_owned(), Some(format!("line-{n}")));
    }
    line.drain().await;
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM job_runs WHERE job <> 'past' AND status IN ('done', 'skipped')")
            .fetch_one(pool)
            .await?;
    std::fs::remove_file(&path)?;
    println!(
        "{}",
        json!({"jobs": jobs, "busy_s": begun.elapsed().as_secs_f64(), "dead": line.dead_letters()})
    );
    Ok(line)
}

/// What the provider did not take waits in the ledger for `email-dispatch`, whose schedule this stands in for.
async fn settle(pool: &PgPool) -> Result<()> {
    let open = "SELECT min(greatest(0, extract(epoch FROM coalesce(lease_until, next_attempt_at) - clock_timestamp())))::float8
                FROM email_messages WHERE status IN ('PENDING', 'SENDING')";
    let mut dispatch: Option<Line> = None;
    while let Some(wait) = sqlx::query_scalar::<_, Option<f64>>(open).fetch_one(pool).await? {
        tokio::time::sleep(Duration::from_secs_f64(wait + 0.1)).await;
        let line = match dispatch.take() {
            Some(line) => line,
            None => {
                let environment = [
                    ("DATABASE_URL", variable("DATABASE_URL")?),
                    ("AWS_ENDPOINT_URL_SESV2", variable("AWS_ENDPOINT_URL_SESV2")?),
                ];
                Line::start(
                    &Workspace::current(),
                    "email-dispatch",
                    Feed { batch: 1, instances: 1 },
                    &environment,
                )
                .await?
            }
        };
        line.send("{}".to_owned(), None);
        line.drain().await;
        dispatch = Some(line);
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the harness sets no {name}"))
}

fn number(name: &str, or: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(or)
}
