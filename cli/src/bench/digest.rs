use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::PgPool;
use testkit::Mailbox;

use super::limit;
use super::measure::{cpu_seconds, mib, reset_statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const LATENCY: Duration = Duration::from_millis(20);
const SLOT: &str = "2025-10-20T09:00:00Z";
/// Users of one statement, the function's default.
const PAGE: usize = 200;

/// Subscribers to a daily digest with 15 unread notifications each, and for each ten of them one who wants mail at once and one who
/// unsubscribed. Of each user's notifications three more must stay out: one is read, one too old, one was mailed. They lie in the order
/// of time, as they came.
const DATA: &str = "
    INSERT INTO users (id, email, name, email_verified)
    SELECT 'u' || i, 'user' || i || '@example.test', 'User ' || i, now() FROM generate_series(1, {users} + {users} / 5) i;
    INSERT INTO email_preferences (user_id, digest_frequency, global_unsubscribe)
    SELECT 'u' || i, CASE WHEN i > {users} AND i % 2 = 0 THEN 'IMMEDIATE' ELSE 'DAILY' END, i > {users} AND i % 2 = 1
    FROM generate_series(1, {users} + {users} / 5) i;
    INSERT INTO notifications (id, user_id, type, title, message, action_url, priority, read, email_state, created_at)
    SELECT 'n' || u || '-' || k, 'u' || u, (ARRAY['LICENSE', 'PAYOUT', 'ROYALTY', 'PROJECT', 'SYSTEM'])[1 + (u + k) % 5], 'Title ' || k,
           repeat('Some words to read. ', 8), '/n/' || u || '-' || k, CASE WHEN k = 17 THEN 'HIGH' ELSE (ARRAY['LOW', 'MEDIUM'])[1 + (u + k) % 2] END,
           k = 15, CASE WHEN k = 17 THEN 'SENT' ELSE 'DIGEST' END,
           CASE WHEN k = 16 THEN '2025-10-18T12:00:00Z' ELSE '2025-10-20T08:30:00Z'::timestamptz - (k * 80 + u % 60) * interval '1 minute' END AS created_at
    FROM generate_series(1, {users} + {users} / 5) u, generate_series(0, 17) k
    ORDER BY created_at;
    UPDATE email_sending_state SET max_send_rate = 100000, fetched_at = now();
    ANALYZE;";

/// The rows that such a slot writes, a statement for each change of a table, on one connection: what no digest of these tables can be
/// faster than on a server of one core. Its mails carry no contents.
const ROWS: &str = "
    SET work_mem = '64MB';
    INSERT INTO digest_deliveries (user_id, kind, frequency, period_key, status, item_count, window_start, window_end, slot_at, email_message_id)
    SELECT 'u' || i, 'NOTIFICATION', 'DAILY', '2025-10-20', 'ENQUEUED', 15, now(), now(), now(), gen_random_uuid()::text FROM generate_series(1, {users}) i;
    INSERT INTO digest_items (kind, item_id, user_id, digest_delivery_id)
    SELECT 'NOTIFICATION', n.id, n.user_id, d.id FROM notifications n JOIN digest_deliveries d ON d.user_id = n.user_id
    WHERE NOT n.read AND n.email_state = 'DIGEST' AND n.created_at > '2025-10-19T09:00:00Z';
    UPDATE notifications n SET email_state = 'DIGESTED' FROM digest_deliveries d
    WHERE d.user_id = n.user_id AND NOT n.read AND n.email_state = 'DIGEST' AND n.created_at > '2025-10-19T09:00:00Z';
    INSERT INTO email_messages (id, dedup_key, user_id, to_email, stream, category, template, variables, expires_at, sender_domain, digest_delivery_id)
    SELECT email_message_id, 'digest:' || user_id, user_id, user_id || '@example.test', 'DIGEST', 'digest', 'notification-digest', '{}',
           now() + interval '12 hours', 'example.test', id
    FROM digest_deliveries;
    UPDATE email_messages SET status = 'SENDING', lease_until = now(), attempts = 1, updated_at = now();
    UPDATE email_messages SET status = 'SENT', lease_until = NULL, sent_at = now(), ses_message_id = id, updated_at = now();
    UPDATE digest_deliveries SET status = 'SENT', sent_at = now();
    INSERT INTO digest_states (user_id, kind, last_sent_at, last_window_end, last_period_key)
    SELECT user_id, kind, now(), now(), period_key FROM digest_deliveries;";

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    let headings = [
        "users",
        "in flight",
        "wall s",
        "mails s",
        "× mails",
        "rows s",
        "× rows",
        "mails/s",
        "CPU s",
        "statements",
        "a page",
        "RSS MiB",
    ];
    let mut rows = Vec::new();
    for (users, in_flight) in [(1_245, 50), (20_000, 50), (20_000, 200)] {
        rows.push(round(programs, &workshop, users, in_flight).await?);
    }
    println!(
        "daily digests of 15 notifications, SES answering after {LATENCY:?}\n\n{}",
        table::render(headings, &rows)
    );
    println!("mails: the same number of mails posted without any work around them, in this run");
    println!("rows: what a slot writes, written by eight plain statements on one connection, in this run");
    println!("statements: all of the function's but rate reservations; a page has {PAGE} users");
    Ok(())
}

async fn round(programs: &Programs, workshop: &Workshop, users: usize, in_flight: usize) -> Result<[String; 12]> {
    let of_users = |sql: &str| sqlx::AssertSqlSafe(sql.replace("{users}", &users.to_string()));
    let (pool, _) = workshop.database("bench_digest").await?;
    sqlx::raw_sql(of_users(DATA)).execute(&pool).await?;
    pool.close().await;
    let (pool, _) = workshop.copy("bench_digest", "bench_digest_rows").await?;
    let begun = Instant::now();
    sqlx::raw_sql(of_users(ROWS)).execute(&pool).await?;
    let rows = begun.elapsed();
    let items: i64 = sqlx::query_scalar("SELECT count(*) FROM digest_items")
        .fetch_one(&pool)
        .await?;
    ensure!(
        items == 15 * i64::try_from(users)?,
        "the plain statements wrote {items} items"
    );
    pool.close().await;
    let (pool, url) = workshop.copy("bench_digest", "bench_digest_round").await?;
    let mailbox = Mailbox::start().await?;
    mailbox.count_only();
    mailbox.latency(LATENCY);
    mailbox.account(|account| account.max_send_rate = 100_000.0);
    let environment = [
        ("DATABASE_URL", url),
        ("AWS_ENDPOINT_URL_SESV2", mailbox.address().to_owned()),
        ("EMAIL_MAX_IN_FLIGHT", in_flight.to_string()),
    ];
    let line = Line::start(programs, "notification-digest", Feed::ONE, &environment).await?;
    line.send(json!({"frequency": "ALL", "asOf": SLOT}).to_string(), None);
    reset_statements(&pool).await?;
    let before = cpu_seconds(&line.lambda.pids());
    let wall = line.drain().await;
    let cpu = cpu_seconds(&line.lambda.pids()) - before;
    let statements = statements(&pool).await?;
    let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();
    verify(&pool, &mailbox, &line, users).await?;
    let limit = limit::mails(mailbox.address(), users, in_flight).await?;
    Ok([
        users.to_string(),
        in_flight.to_string(),
        format!("{:.2}", wall.as_secs_f64()),
        format!("{:.2}", limit.as_secs_f64()),
        format!("{:.2}", wall.as_secs_f64() / limit.as_secs_f64()),
        format!("{:.2}", rows.as_secs_f64()),
        format!("{:.2}", wall.as_secs_f64() / rows.as_secs_f64()),
        format!("{:.0}", users as f64 / wall.as_secs_f64()),
        format!("{cpu:.2}"),
        statements.to_string(),
        format!("{:.1}", statements as f64 / users.div_ceil(PAGE) as f64),
        format!("{:.1}", mib(memory)),
    ])
}

/// All but rate reservations, which are as many as the quota makes them.
async fn statements(pool: &PgPool) -> Result<i64> {
    let sql = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
               WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%email_rate_limits%'";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// A benchmark that did the wrong thing fast is worth nothing.
async fn verify(pool: &PgPool, mailbox: &Mailbox, line: &Line, users: usize) -> Result<()> {
    let sql = "SELECT (SELECT count(*) FROM digest_deliveries WHERE status = 'SENT' AND item_count = 15),
                      (SELECT count(*) FROM digest_states WHERE last_period_key = '2025-10-20'),
                      (SELECT count(*) FROM digest_items), (SELECT count(*) FROM digest_deliveries)";
    let (sent, states, items, deliveries): (i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(pool).await?;
    let expected = i64::try_from(users)?;
    ensure!(
        (sent, states, items, deliveries) == (expected, expected, 15 * expected, expected),
        "{sent} digests of {deliveries} sent, {states} users know of theirs, {items} items"
    );
    ensure!(
        mailbox.accepted() == users && mailbox.doubled() == 0,
        "{} mailed, {} twice",
        mailbox.accepted(),
        mailbox.doubled()
    );
    ensure!(line.dead_letters() == 0, "{} messages are dead", line.dead_letters());
    Ok(())
}
