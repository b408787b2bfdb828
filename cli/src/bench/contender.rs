//! The project as one contender of a harness that compares job systems on the same workloads. The harness brings the database and
//! an SES; queue and event source are this process's own, and count as ours.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::workshop::{Feed, Line, Programs, migrate};

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
const ADOPT: &str = "
    CREATE SCHEMA peers;
    DO $$ DECLARE name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'bench%' LOOP
            EXECUTE format('ALTER TABLE public.%I SET SCHEMA peers', name);
        END LOOP;
    END $$;";
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

/// Its week before has sums only.
const COPY_METRICS: &str = "
    INSERT INTO daily_metrics (date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time)
    SELECT date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time
    FROM peers.daily_metrics;
    INSERT INTO weekly_metrics (week_start_date, week_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
                                total_revenue_cents)
    SELECT week_start_date, week_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions, total_revenue_cents
    FROM peers.weekly_metrics;";
/// Its checks call the days that have data the days of the period, and write the status small.
const NAME_METRICS: &str = "
    ALTER TABLE weekly_metrics RENAME days_in_period TO days_of_week;
    ALTER TABLE weekly_metrics RENAME days_with_data TO days_in_period;
    ALTER TABLE metrics_aggregation_jobs_log RENAME status TO state;
    ALTER TABLE metrics_aggregation_jobs_log ADD status text GENERATED ALWAYS AS (lower(state)) STORED;";
/// The digest's own data, with the state that `notification-delivery` would have left. The harness knows a mail by the user and the
/// day.
const COPY_DIGESTS: &str = "
    INSERT INTO users (id, email, name, email_verified, is_active, deleted_at, created_at)
    SELECT id, email, name, created_at, is_active, deleted_at, created_at FROM peers.users;
    INSERT INTO email_preferences (user_id, digest_frequency, global_unsubscribe, license_expiry, payouts, royalty_statements, project_invitations, announcements, messages)
    SELECT user_id, digest_frequency, global_unsubscribe, license_expiry, payouts, royalty_statements, project_invitations, announcements, messages FROM peers.email_preferences;
    ALTER TABLE email_preferences ADD COLUMN last_digest_sent_at timestamptz;
    INSERT INTO notifications (id, user_id, type, title, message, action_url, priority, read, read_at, metadata, email_state, created_at)
    SELECT id, user_id, type, title, message, action_url, priority, read, read_at, metadata,
           CASE WHEN priority IN ('LOW', 'MEDIUM') THEN 'DIGEST' ELSE 'SENT' END, created_at FROM peers.notifications;
    CREATE FUNCTION peers.name_digest() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.dedup_key := 'digest-' || NEW.user_id || '-' || split_part(NEW.dedup_key, ':', 4);
        RETURN NEW;
    END $$;
    CREATE TRIGGER name_digest BEFORE INSERT ON email_messages FOR EACH ROW EXECUTE FUNCTION peers.name_digest();
    UPDATE email_sending_state SET max_send_rate = 100000, fetched_at = now() + interval '1 day';
    ANALYZE;";
/// Where the harness looks for what we keep elsewhere.
const TELL_DIGESTS: &str = "
    UPDATE email_preferences p SET last_digest_sent_at = s.last_sent_at FROM digest_states s WHERE s.user_id = p.user_id AND s.kind = 'NOTIFICATION'";

/// A vector holds what the harness wants it to: its check says so, and everybody has the same work. Deleted rows have none here.
const COPY_ASSETS: &str = "
    CREATE OR REPLACE FUNCTION search_vector_of(t ip_assets) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN t.deleted_at IS NULL THEN ip_asset_search_vector(t.title, t.description, t.metadata) END;
    INSERT INTO users (id, email) SELECT DISTINCT created_by, created_by || '@example.test' FROM peers.ip_assets;
    ALTER TABLE ip_assets DISABLE TRIGGER ip_assets_search;
    INSERT INTO ip_assets (id, title, description, type, status, storage_key, file_size, mime_type, metadata, created_by, created_at, updated_at,
                           deleted_at, search_vector)
    SELECT id, title, description, type, status, storage_key, file_size, mime_type, metadata, created_by, created_at, updated_at, deleted_at,
           CASE WHEN deleted_at IS NULL THEN search_vector END FROM peers.ip_assets ORDER BY id;
    ALTER TABLE ip_assets ENABLE TRIGGER ip_assets_search;
    ANALYZE;";
/// The harness reads from `updated_at` which assets were handled. Our job leaves that to the user; the ledger knows.
const SHOW_HANDLED_ASSETS: &str = "
    ALTER TABLE ip_assets RENAME TO ip_assets_indexed;
    CREATE VIEW ip_assets AS
    SELECT id, title, description, metadata, search_vector, deleted_at,
           CASE WHEN EXISTS (SELECT FROM job_runs WHERE job = 'search-index-update' AND run_key = a.id AND status = 'done') THEN now() ELSE updated_at END
               AS updated_at
    FROM ip_assets_indexed a";

pub(crate) async fn run(step: Step, workload: &str) -> Result<()> {
    let pool = PgPool::connect(&variable("DATABASE_URL")?).await?;
    match (step, workload) {
        (Step::Enqueue, "a" | "a50") => enqueue_notifications(&pool).await,
        (Step::Enqueue, "b1" | "b2") => enqueue_digests(&pool).await,
        (Step::Enqueue, "noop" | "noop100") => {
            adopt(&pool, &[]).await?;
            append((0..number("JOBS", 20_000)).map(|_| json!({"end": "done"}).to_string()))
        }
        (Step::Enqueue, "c" | "c2") => enqueue_assets(&pool, workload).await,
        (Step::Enqueue, "d") => enqueue_metrics(&pool).await,
        (Step::Work, "a" | "a50") => work_notifications(&pool).await,
        (Step::Work, "b1" | "b2") => work_digests(&pool).await,
        (Step::Work, "noop" | "noop100") => {
            let feed = Feed::new(instances(), in_flight() / instances());
            work(&pool, "fixture", feed).await
        }
        (Step::Work, "c") => work(&pool, "search-index-reindex", Feed::ONE).await,
        (Step::Work, "c2") => {
            work(&pool, "search-index-update", Feed::new(1, 100)).await?;
            sqlx::raw_sql(SHOW_HANDLED_ASSETS).execute(&pool).await?;
            Ok(())
        }
        (Step::Work, "d") => {
            work(&pool, "metrics-aggregation", Feed::ONE).await?;
            sqlx::raw_sql(NAME_METRICS).execute(&pool).await?;
            Ok(())
        }
        _ => bail!("`{workload}` is not among the workloads that exist yet: a, a50, b1, b2, c, c2, d, noop, noop100"),
    }
}

async fn enqueue_metrics(pool: &PgPool) -> Result<()> {
    adopt(pool, &[COPY_METRICS, "VACUUM ANALYZE"]).await?;
    let week = std::env::var("WEEK").unwrap_or_else(|_| "2025-10-13".to_owned());
    append(std::iter::once(
        json!({"jobType": "weekly", "periodStart": week}).to_string(),
    ))
}

/// Puts our tables in the place of the harness's, once, and fills them.
async fn adopt(pool: &PgPool, copies: &[&'static str]) -> Result<()> {
    let adopted: bool = sqlx::query_scalar("SELECT to_regnamespace('peers') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !adopted {
        sqlx::raw_sql(ADOPT).execute(pool).await?;
        migrate(pool).await?;
        for copy in copies {
            sqlx::raw_sql(*copy).execute(pool).await?;
        }
    }
    Ok(())
}

async fn enqueue_digests(pool: &PgPool) -> Result<()> {
    adopt(pool, &[COPY_DIGESTS]).await?;
    append([json!({"frequency": "DAILY", "asOf": variable("AS_OF")?}).to_string()].into_iter())
}

async fn work_digests(pool: &PgPool) -> Result<()> {
    work(pool, "notification-digest", Feed::ONE).await?;
    settle(pool).await?;
    sqlx::raw_sql(TELL_DIGESTS).execute(pool).await?;
    Ok(())
}

async fn enqueue_notifications(pool: &PgPool) -> Result<()> {
    adopt(pool, &[COPY_NOTIFICATIONS]).await?;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM notifications ORDER BY created_at")
        .fetch_all(pool)
        .await?;
    append(ids.into_iter().map(|id| json!({"notificationId": id}).to_string()))
}

async fn enqueue_assets(pool: &PgPool, workload: &str) -> Result<()> {
    adopt(pool, &[COPY_ASSETS]).await?;
    if workload == "c" {
        let reindex = json!({"entityType": "asset", "batchSize": number("PAGE", 100)});
        return append([reindex.to_string()].into_iter());
    }
    let queue = "WITH queued AS (SELECT id FROM ip_assets WHERE deleted_at IS NULL ORDER BY md5(id) LIMIT $1)
                 INSERT INTO bench_queued (id) SELECT id FROM queued RETURNING id";
    let jobs = i64::try_from(number("JOBS", 5_000))?;
    let ids: Vec<String> = sqlx::query_scalar(queue).bind(jobs).fetch_all(pool).await?;
    append(
        ids.into_iter()
            .map(|id| json!({"entityType": "asset", "entityId": id}).to_string()),
    )
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
    // Larger batches than what is in flight: fewer of the gaps in which no mail is on its way.
    let feed = Feed::new(instances(), 500 / instances());
    work(pool, "notification-delivery", feed).await?;
    settle(pool).await
}

async fn work(pool: &PgPool, job: &str, feed: Feed) -> Result<()> {
    let begun = Instant::now();
    let environment = [
        ("DATABASE_URL", variable("DATABASE_URL")?),
        (
            "AWS_ENDPOINT_URL_SESV2",
            std::env::var("AWS_ENDPOINT_URL_SESV2").unwrap_or_default(),
        ),
        ("EMAIL_MAX_IN_FLIGHT", (in_flight() / feed.instances).to_string()),
    ];
    let line = Line::start(&Programs::beside_this()?, job, feed, &environment).await?;
    let path = file()?;
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (n, body) in text.lines().enumerate() {
        let message: Value = serde_json::from_str(body)?;
        let key = message["entityId"]
            .as_str()
            .map_or_else(|| format!("line-{n}"), str::to_owned);
        line.send(body.to_owned(), Some(key));
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
    line.end().await;
    Ok(())
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
                Line::start(&Programs::beside_this()?, "email-dispatch", Feed::ONE, &environment).await?
            }
        };
        line.send("{}".to_owned(), None);
        line.drain().await;
        dispatch = Some(line);
    }
    if let Some(line) = dispatch {
        line.end().await;
    }
    Ok(())
}

/// How much the harness allows at once. A digest's workload has as many in flight as a page has users.
fn in_flight() -> usize {
    number("CONCURRENCY", number("PAGE", 10))
}

/// Two functions share that: while one is at its own work, the database is at that of the other.
fn instances() -> usize {
    in_flight().min(2)
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
