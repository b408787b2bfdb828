use chrono::{Datelike, NaiveDate};
use services::Error;
use sqlx::PgConnection;

use crate::calendar::Period;
use crate::{Rollup, plan_for_sets};

pub(crate) async fn compute(connection: &mut PgConnection, start: NaiveDate, exact: bool) -> Result<Rollup, Error> {
    let weeks = weeks(start);
    let (starts, ends): (Vec<_>, Vec<_>) = weeks.into_iter().unzip();
    plan_for_sets(&mut *connection).await?;
    let row = sqlx::query_file!(
        "src/sql/month.sql",
        start,
        Period::Month(start).end(),
        exact,
        &starts,
        &ends
    )
    .fetch_one(&mut *connection)
    .await?;
    // The month after it is compared with this one.
    sqlx::query!(
        "UPDATE monthly_metrics m
         SET views_growth_percent = g.views, clicks_growth_percent = g.clicks, conversions_growth_percent = g.conversions,
             revenue_growth_percent = g.revenue, updated_at = clock_timestamp()
         FROM (SELECT n.ctid AS row, growth_percent(n.total_views, p.total_views) AS views, growth_percent(n.total_clicks, p.total_clicks) AS clicks,
                      growth_percent(n.total_conversions, p.total_conversions) AS conversions,
                      growth_percent(n.total_revenue_cents, p.total_revenue_cents) AS revenue
               FROM monthly_metrics n
               LEFT JOIN monthly_metrics p ON (p.year, p.month) = ($1, $2) AND coalesce(p.project_id, '') = coalesce(n.project_id, '')
                   AND coalesce(p.ip_asset_id, '') = coalesce(n.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(n.license_id, '')
               WHERE (n.year, n.month) = ($3, $4)) g
         WHERE (m.year, m.month) = ($3, $4) AND m.ctid = g.row
           AND (m.views_growth_percent, m.clicks_growth_percent, m.conversions_growth_percent, m.revenue_growth_percent)
               IS DISTINCT FROM (g.views, g.clicks, g.conversions, g.revenue)",
        start.year(),
        month_of(start),
        Period::Month(start).next().start().year(),
        month_of(Period::Month(start).next().start()),
    )
    .execute(&mut *connection)
    .await?;
    year_over_year(connection, start).await?;
    Ok(Rollup {
        processed: row.processed,
        created: row.created,
        updated: row.updated,
        deleted: row.deleted,
        changed: row.changed,
        ..Rollup::default()
    })
}

/// The month against the one a year before, and the one a year later against it.
pub(crate) async fn year_over_year(connection: &mut PgConnection, start: NaiveDate) -> Result<i64, Error> {
    let changed = sqlx::query!(
        "UPDATE monthly_metrics m
         SET views_yoy_percent = g.views, revenue_yoy_percent = g.revenue, updated_at = clock_timestamp()
         FROM (SELECT n.ctid AS row, growth_percent(n.total_views, p.total_views) AS views,
                      growth_percent(n.total_revenue_cents, p.total_revenue_cents) AS revenue
               FROM monthly_metrics n
               LEFT JOIN monthly_metrics p ON p.year = n.year - 1 AND p.month = n.month AND coalesce(p.project_id, '') = coalesce(n.project_id, '')
                   AND coalesce(p.ip_asset_id, '') = coalesce(n.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(n.license_id, '')
                   AND p.year IN ($1 - 1, $1) AND p.month = $2
               WHERE n.year IN ($1, $1 + 1) AND n.month = $2) g
         WHERE m.year IN ($1, $1 + 1) AND m.month = $2 AND m.ctid = g.row
           AND (m.views_yoy_percent, m.revenue_yoy_percent) IS DISTINCT FROM (g.views, g.revenue)",
        start.year(),
        month_of(start),
    )
    .execute(connection)
    .await?;
    Ok(i64::try_from(changed.rows_affected()).unwrap_or(i64::MAX))
}

pub(crate) async fn mismatches(connection: &mut PgConnection, start: NaiveDate) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM (SELECT project_id, ip_asset_id, license_id, sum(views) AS views, sum(clicks) AS clicks, sum(conversions) AS conversions,
                        sum(revenue_cents)::bigint AS revenue
                 FROM daily_metrics WHERE date BETWEEN $1 AND $2 GROUP BY 1, 2, 3) d
           FULL JOIN (SELECT * FROM monthly_metrics WHERE (year, month) = ($3, $4)) m
               ON coalesce(m.project_id, '') = coalesce(d.project_id, '') AND coalesce(m.ip_asset_id, '') = coalesce(d.ip_asset_id, '')
              AND coalesce(m.license_id, '') = coalesce(d.license_id, '')
           WHERE (d.views, d.clicks, d.conversions, d.revenue)
                 IS DISTINCT FROM (m.total_views, m.total_clicks, m.total_conversions, m.total_revenue_cents)"#,
        start,
        Period::Month(start).end(),
        start.year(),
        month_of(start),
    )
    .fetch_one(connection)
    .await?)
}

fn month_of(date: NaiveDate) -> i32 {
    date.month().cast_signed()
}

/// The ISO weeks of a month, clipped to it: first and last day of each.
fn weeks(start: NaiveDate) -> Vec<(NaiveDate, NaiveDate)> {
    let end = Period::Month(start).end();
    std::iter::successors(Some(Period::week_of(start)), |week| Some(week.next()))
        .take_while(|week| week.start() <= end)
        .map(|week| (week.start().max(start), week.end().min(end)))
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::Months;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_weeks_of_a_month_are_four_to_six_and_cover_each_day_once(months in 0u32..1200) {
            let start = NaiveDate::from_ymd_opt(1990, 1, 1).unwrap().checked_add_months(Months::new(months)).unwrap();
            let weeks = weeks(start);
            prop_assert!((4..=6).contains(&weeks.len()));
            let days: Vec<_> = weeks.iter().flat_map(|(from, to)| from.iter_days().take_while(move |day| day <= to)).collect();
            prop_assert_eq!(days, Period::Month(start).days().collect::<Vec<_>>());
        }
    }
}
