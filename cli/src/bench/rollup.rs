//! A weekly roll-up of 1,000,000 daily rows, and the enrichment of 20,000 events.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use sqlx::PgPool;

use super::measure::{cpu_seconds, mib, reset_statements, statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const ROUNDS: usize = 7;
const WEEK: &str = "2025-10-13";
const KEYS: i64 = 142_858;
const EVENTS: i64 = 20_000;

/// Seven days of each project, asset or licence, and the week before of nine in ten of them. No chance: the same on every machine.
const DAYS: &str = "
    INSERT INTO daily_metrics (date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time)
    SELECT date '2025-10-12' + d, 'prj_' || md5((k / 10)::text), CASE WHEN k % 10 > 0 THEN 'ast_' || md5(k::text) END,
           CASE WHEN k % 10 > 6 THEN 'lic_' || md5(k::text) END, (k * 7 + d) % 1000, (k * 11 + d) % 100, (k * 13 + d) % 10, (k * 17 + d) % 60000,
           (k * 19 + d) % 500, (k * 23 + d) % 8000
    FROM generate_series(0, 142857) k, generate_series(1, 7) d WHERE k * 7 + d <= 1000000;
    INSERT INTO weekly_metrics (week_start_date, week_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
                                total_revenue_cents)
    SELECT '2025-10-06', '2025-10-12', 'prj_' || md5((k / 10)::text), CASE WHEN k % 10 > 0 THEN 'ast_' || md5(k::text) END,
           CASE WHEN k % 10 > 6 THEN 'lic_' || md5(k::text) END, k % 7000, k % 700, k % 70, k % 400000
    FROM generate_series(0, 142857) k WHERE k % 10 <> 9;";

/// What nothing can beat in one statement: group, compare, insert. Nothing is there before, so nothing is looked for.
const LIMIT: &str = "
    SET work_mem = '64MB'; SET jit = off;
    INSERT INTO weekly_metrics (week_start_date, week_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
                                total_revenue_cents, unique_visitors, total_engagement_time, views_growth_percent, clicks_growth_percent,
                                conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions,
                                avg_daily_revenue_cents, days_with_data)
    SELECT date '2025-10-13', date '2025-10-19', d.project_id, d.ip_asset_id, d.license_id, d.views, d.clicks, d.conversions, d.revenue, d.visitors,
           d.engagement, growth_percent(d.views, p.total_views), growth_percent(d.clicks, p.total_clicks),
           growth_percent(d.conversions, p.total_conversions), growth_percent(d.revenue, p.total_revenue_cents), d.views / 7.0, d.clicks / 7.0,
           d.conversions / 7.0, d.revenue / 7.0, d.days
    FROM (SELECT project_id, ip_asset_id, license_id, sum(views) AS views, sum(clicks) AS clicks, sum(conversions) AS conversions,
                 sum(revenue_cents)::bigint AS revenue, sum(unique_visitors) AS visitors, sum(engagement_time)::bigint AS engagement, count(*) AS days
          FROM daily_metrics WHERE date BETWEEN '2025-10-13' AND '2025-10-19' GROUP BY 1, 2, 3) d
    LEFT JOIN weekly_metrics p ON p.week_start_date = '2025-10-06' AND coalesce(p.project_id, '') = coalesce(d.project_id, '')
        AND coalesce(p.ip_asset_id, '') = coalesce(d.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(d.license_id, '')";

/// A hundred assets, a visit of ten events each.
const VISITS: &str = r#"
    INSERT INTO events (id, occurred_at, event_type, actor_id, session_id, ip_asset_id, props)
    SELECT 'evt_' || i, now() - interval '1 hour' + i * interval '10 ms', 'asset_viewed', 'act_' || i / 10, 'ses_' || i / 10, 'ast_' || i % 100,
           jsonb_build_object('userAgent', 'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1',
                              'utmSource', 'newsletter', 'utmMedium', 'email', 'referrer', 'https://mail.example.test/', 'landingPage', '/assets/' || i % 100)
    FROM generate_series(1, 20000) i"#;

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    println!(
        "a week of 1,000,000 daily rows, {KEYS} rows of the week\n\n{}",
        roll_up(programs, &workshop).await?
    );
    println!(
        "{EVENTS} events, batches of 100, one function\n\n{}",
        enrich(programs, &workshop).await?
    );
    Ok(())
}

async fn roll_up(programs: &Programs, workshop: &Workshop) -> Result<String> {
    let (pool, _) = workshop.database("bench_rollup").await?;
    sqlx::raw_sql(DAYS).execute(&pool).await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&pool).await?;
    pool.close().await;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        // In turns, each on a fresh copy.
        let (pool, _) = workshop.copy("bench_rollup", "bench_rollup_round").await?;
        let begun = Instant::now();
        sqlx::raw_sql(LIMIT).execute(&pool).await?;
        let limit = begun.elapsed();
        let expected = sums(&pool).await?;
        pool.close().await;
        let (pool, url) = workshop.copy("bench_rollup", "bench_rollup_round").await?;
        let line = Line::start(programs, "metrics-aggregation", Feed::ONE, &[("DATABASE_URL", url)]).await?;
        let mut walls = [Duration::ZERO; 2];
        for wall in &mut walls {
            line.send(json!({"jobType": "weekly", "periodStart": WEEK}).to_string(), None);
            *wall = line.drain().await;
        }
        ensure!(
            sums(&pool).await? == expected,
            "the week does not say what its days say"
        );
        ensure!(line.dead_letters() == 0, "the message is dead");
        rounds.push((walls[0], walls[1], limit));
        pool.close().await;
    }
    let median = |figure: fn(&(Duration, Duration, Duration)) -> f64| {
        let mut figures: Vec<_> = rounds.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[ROUNDS / 2]
    };
    let headings = [
        "wall s",
        "limit s",
        "× limit",
        "again s (nothing to write)",
        "medians of",
    ];
    let cells = [
        format!("{:.2}", median(|(first, _, _)| first.as_secs_f64())),
        format!("{:.2}", median(|(_, _, limit)| limit.as_secs_f64())),
        // Of one round each: what else the machine does changes from minute to minute.
        format!(
            "{:.2}",
            median(|(first, _, limit)| first.as_secs_f64() / limit.as_secs_f64())
        ),
        format!("{:.2}", median(|(_, again, _)| again.as_secs_f64())),
        ROUNDS.to_string(),
    ];
    Ok(table::render(headings, &[cells]))
}

async fn sums(pool: &PgPool) -> Result<String> {
    let sql = "SELECT concat_ws(' ', count(*), sum(total_views), sum(total_revenue_cents), sum(views_growth_percent), sum(avg_daily_clicks), sum(days_with_data))
               FROM weekly_metrics WHERE week_start_date = '2025-10-13'";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

async fn enrich(programs: &Programs, workshop: &Workshop) -> Result<String> {
    let (pool, url) = workshop.database("bench_enrich").await?;
    sqlx::raw_sql(VISITS).execute(&pool).await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&pool).await?;
    let feed = Feed::new(1, 100);
    let line = Line::start(programs, "analytics-enrich-event", feed, &[("DATABASE_URL", url)]).await?;
    for n in 1..=EVENTS {
        line.send(json!({"eventId": format!("evt_{n}")}).to_string(), None);
    }
    reset_statements(&pool).await?;
    let before = cpu_seconds(&line.lambda.pids());
    let wall = line.drain().await;
    let cpu = cpu_seconds(&line.lambda.pids()) - before;
    let statements = statements(&pool).await?;
    let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();
    let enriched: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM events e JOIN attributions a ON a.event_id = e.id WHERE e.enriched_at IS NOT NULL",
    )
    .fetch_one(&pool)
    .await?;
    ensure!(enriched == EVENTS, "{enriched} of {EVENTS} events are enriched");
    let headings = [
        "events/s",
        "events/s and core of the function",
        "statements an event",
        "RSS MiB",
    ];
    let cells = [
        format!("{:.0}", EVENTS as f64 / wall.as_secs_f64()),
        format!("{:.0}", EVENTS as f64 / cpu),
        format!("{:.3}", statements as f64 / EVENTS as f64),
        format!("{:.1}", mib(memory)),
    ];
    Ok(table::render(headings, &[cells]))
}
