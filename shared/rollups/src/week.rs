use chrono::NaiveDate;
use services::Error;
use sqlx::PgConnection;

use crate::{Rollup, plan_for_sets};

pub(crate) async fn compute(connection: &mut PgConnection, start: NaiveDate, exact: bool) -> Result<Rollup, Error> {
    plan_for_sets(&mut *connection).await?;
    let row = sqlx::query_file!("src/sql/week.sql", start, exact)
        .fetch_one(&mut *connection)
        .await?;
    // The week after it is compared with this one.
    sqlx::query!(
        "UPDATE weekly_metrics w
         SET views_growth_percent = g.views, clicks_growth_percent = g.clicks, conversions_growth_percent = g.conversions,
             revenue_growth_percent = g.revenue, updated_at = clock_timestamp()
         FROM (SELECT n.ctid AS row, growth_percent(n.total_views, p.total_views) AS views, growth_percent(n.total_clicks, p.total_clicks) AS clicks,
                      growth_percent(n.total_conversions, p.total_conversions) AS conversions,
                      growth_percent(n.total_revenue_cents, p.total_revenue_cents) AS revenue
               FROM weekly_metrics n
               LEFT JOIN weekly_metrics p ON p.week_start_date = $1 AND coalesce(p.project_id, '') = coalesce(n.project_id, '')
                   AND coalesce(p.ip_asset_id, '') = coalesce(n.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(n.license_id, '')
               WHERE n.week_start_date = $1 + 7) g
         WHERE w.week_start_date = $1 + 7 AND w.ctid = g.row
           AND (w.views_growth_percent, w.clicks_growth_percent, w.conversions_growth_percent, w.revenue_growth_percent)
               IS DISTINCT FROM (g.views, g.clicks, g.conversions, g.revenue)",
        start,
    )
    .execute(connection)
    .await?;
    Ok(Rollup {
        processed: row.processed,
        created: row.created,
        updated: row.updated,
        deleted: row.deleted,
        changed: row.changed,
        ..Rollup::default()
    })
}

pub(crate) async fn mismatches(connection: &mut PgConnection, start: NaiveDate) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM (SELECT project_id, ip_asset_id, license_id, sum(views) AS views, sum(clicks) AS clicks, sum(conversions) AS conversions,
                        sum(revenue_cents)::bigint AS revenue
                 FROM daily_metrics WHERE date BETWEEN $1 AND $1 + 6 GROUP BY 1, 2, 3) d
           FULL JOIN (SELECT * FROM weekly_metrics WHERE week_start_date = $1) w
               ON coalesce(w.project_id, '') = coalesce(d.project_id, '') AND coalesce(w.ip_asset_id, '') = coalesce(d.ip_asset_id, '')
              AND coalesce(w.license_id, '') = coalesce(d.license_id, '')
           WHERE (d.views, d.clicks, d.conversions, d.revenue)
                 IS DISTINCT FROM (w.total_views, w.total_clicks, w.total_conversions, w.total_revenue_cents)"#,
        start,
    )
    .fetch_one(connection)
    .await?)
}
