use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::PgPool;
use testkit::Mailbox;

use super::limit;
use super::measure::{cpu_seconds, mib, reset_statements, statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const NOTIFICATIONS: usize = 5_000;
const LATENCY: Duration = Duration::from_millis(20);

/// 1,000 users with five notifications each. Of the users 5 % unsubscribed, 10 % want a daily digest, 4 % no payout mail, 2 % are
/// deleted; the notifications are of all priorities but LOW, which is never mailed.
const DATA: &str = "
    INSERT INTO users (id, email, name, email_verified, deleted_at)
    SELECT 'u' || i, 'user' || i || '@example.test', 'User ' || i, now(), CASE WHEN i % 50 = 3 THEN now() END FROM generate_series(1, 1000) i;
    INSERT INTO email_preferences (user_id, digest_frequency, global_unsubscribe, payouts)
    SELECT 'u' || i, CASE WHEN i % 10 = 1 THEN 'DAILY' ELSE 'IMMEDIATE' END, i % 20 = 0, i % 25 <> 2 FROM generate_series(1, 1000) i;
    INSERT INTO notifications (id, user_id, type, title, message, action_url, priority)
    SELECT 'n' || i, 'u' || 1 + (i - 1) / 5, (ARRAY['LICENSE', 'PAYOUT', 'ROYALTY', 'PROJECT', 'SYSTEM'])[1 + i % 5], 'Title ' || i,
           repeat('Some words to read. ', 8), '/n/' || i, (ARRAY['MEDIUM', 'MEDIUM', 'HIGH', 'URGENT'])[1 + i % 4] FROM generate_series(1, 5000) i;
    UPDATE email_sending_state SET max_send_rate = 100000, fetched_at = now();
    ANALYZE;";

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    let headings = [
        "in flight",
        "event source",
        "mails",
        "wall s",
        "limit s",
        "× limit",
        "CPU s",
        "statements",
        "RSS MiB",
        "connections",
    ];
    let mut rows = Vec::new();
    for (in_flight, feed) in [
        (10, Feed::new(1, 100)),
        // Larger batches: fewer of the gaps in which no mail is on its way.
        (10, Feed::new(1, 250)),
        // What one function claims and decides, the other one mails meanwhile.
        (10, Feed::new(2, 250)),
        (50, Feed::new(1, 500)),
        (50, Feed::new(2, 250)),
        // What the catalog declares: each of ten functions sends the mails of its batch at once.
        (100, Feed::new(10, 10)),
    ] {
        rows.push(round(programs, &workshop, in_flight, feed).await?);
    }
    println!(
        "{NOTIFICATIONS} notifications, SES answering after {LATENCY:?}\n\n{}",
        table::render(headings, &rows)
    );
    println!("limit: the same number of mails posted without any work around them, in this run");
    Ok(())
}

async fn round(programs: &Programs, workshop: &Workshop, in_flight: usize, feed: Feed) -> Result<[String; 10]> {
    let (pool, url) = workshop.database("bench_notify").await?;
    sqlx::raw_sql(DATA).execute(&pool).await?;
    let mailbox = Mailbox::start().await?;
    mailbox.count_only();
    mailbox.latency(LATENCY);
    mailbox.account(|account| account.max_send_rate = 100_000.0);
    let environment = [
        ("DATABASE_URL", url),
        ("AWS_ENDPOINT_URL_SESV2", mailbox.address().to_owned()),
        ("EMAIL_MAX_IN_FLIGHT", (in_flight / feed.instances).to_string()),
    ];
    let line = Line::start(programs, "notification-delivery", feed, &environment).await?;
    for n in 1..=NOTIFICATIONS {
        line.send(json!({"notificationId": format!("n{n}")}).to_string(), None);
    }
    reset_statements(&pool).await?;
    let before = cpu_seconds(&line.lambda.pids());
    let wall = line.drain().await;
    let cpu = cpu_seconds(&line.lambda.pids()) - before;
    let statements = statements(&pool).await?;
    let connections = connections(&pool).await?;
    let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();
    verify(&pool, &mailbox, &line).await?;
    let mails = mailbox.accepted();
    let limit = limit::mails(mailbox.address(), mails, in_flight).await?;
    Ok([
        in_flight.to_string(),
        feed.to_string(),
        mails.to_string(),
        format!("{:.2}", wall.as_secs_f64()),
        format!("{:.2}", limit.as_secs_f64()),
        format!("{:.2}", wall.as_secs_f64() / limit.as_secs_f64()),
        format!("{cpu:.2}"),
        statements.to_string(),
        format!("{:.1}", mib(memory)),
        connections.to_string(),
    ])
}

/// A benchmark that did the wrong thing fast is worth nothing.
async fn verify(pool: &PgPool, mailbox: &Mailbox, line: &Line) -> Result<()> {
    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await;
    let sent = count("SELECT count(*) FROM notifications WHERE email_state = 'SENT'").await?;
    let open =
        count("SELECT count(*) FROM notifications WHERE email_state IN ('PENDING', 'QUEUED') OR in_app_at IS NULL")
            .await?;
    ensure!(open == 0, "{open} notifications were not delivered");
    ensure!(
        usize::try_from(sent)? == mailbox.accepted() && mailbox.doubled() == 0,
        "{sent} marked sent, {} mailed, {} twice",
        mailbox.accepted(),
        mailbox.doubled()
    );
    ensure!(line.dead_letters() == 0, "{} messages are dead", line.dead_letters());
    Ok(())
}

async fn connections(pool: &PgPool) -> Result<i64> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'notification-delivery'";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}
