-- $1 the first, $2 the last day, $3 whether all events of the month are still there, $4 and $5 first and last days of its weeks
WITH weekly AS (
    SELECT project_id, ip_asset_id, license_id, greatest(date_trunc('week', date)::date, $1) AS week_start, sum(views) AS views,
           sum(clicks) AS clicks, sum(conversions) AS conversions, sum(revenue_cents)::bigint AS revenue_cents,
           sum(unique_visitors) AS unique_visitors, sum(engagement_time)::bigint AS engagement_time, count(*) AS days
    FROM daily_metrics
    WHERE date BETWEEN $1 AND $2
    GROUP BY 1, 2, 3, 4
), source AS MATERIALIZED (
    SELECT project_id, ip_asset_id, license_id, sum(views)::bigint AS views, sum(clicks)::bigint AS clicks,
           sum(conversions)::bigint AS conversions, sum(revenue_cents)::bigint AS revenue_cents,
           sum(unique_visitors)::bigint AS unique_visitors, sum(engagement_time)::bigint AS engagement_time, sum(days)::bigint AS days,
           jsonb_object_agg(week_start, jsonb_build_object('views', views, 'clicks', clicks, 'conversions', conversions,
                                                           'revenueCents', revenue_cents)) AS weeks
    FROM weekly
    GROUP BY project_id, ip_asset_id, license_id
), visitors AS (
    SELECT coalesce(project_id, '') AS project_id, coalesce(ip_asset_id, '') AS ip_asset_id, coalesce(license_id, '') AS license_id,
           count(DISTINCT visitor) AS unique_visitors
    FROM counted_events
    WHERE $3 AND occurred_at >= $1::timestamp AT TIME ZONE 'UTC' AND occurred_at < ($2 + 1)::timestamp AT TIME ZONE 'UTC'
      AND num_nonnulls(project_id, ip_asset_id, license_id) > 0
    GROUP BY 1, 2, 3
), written AS (
    INSERT INTO monthly_metrics AS w (
        year, month, month_start_date, month_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
        total_revenue_cents, unique_visitors, unique_visitors_estimated, total_engagement_time, views_growth_percent, clicks_growth_percent,
        conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions, avg_daily_revenue_cents,
        days_in_period, days_with_data, weeks_in_month, weekly_breakdown)
    SELECT extract(year FROM $1), extract(month FROM $1), $1, $2, s.project_id, s.ip_asset_id, s.license_id, s.views, s.clicks,
           s.conversions, s.revenue_cents,
           CASE WHEN $3 THEN coalesce(v.unique_visitors, 0) ELSE s.unique_visitors END, NOT $3, s.engagement_time,
           growth_percent(s.views, p.total_views), growth_percent(s.clicks, p.total_clicks),
           growth_percent(s.conversions, p.total_conversions), growth_percent(s.revenue_cents, p.total_revenue_cents),
           s.views::numeric / ($2 - $1 + 1), s.clicks::numeric / ($2 - $1 + 1), s.conversions::numeric / ($2 - $1 + 1),
           s.revenue_cents::numeric / ($2 - $1 + 1), $2 - $1 + 1, s.days, cardinality($4::date[]),
           (SELECT jsonb_agg('{"views": 0, "clicks": 0, "conversions": 0, "revenueCents": 0}' || coalesce(s.weeks -> w.week_start::text, '{}')
                             || jsonb_build_object('weekStart', w.week_start, 'weekEnd', w.week_end) ORDER BY w.week_start)
            FROM unnest($4, $5::date[]) AS w (week_start, week_end))
    FROM source s
    LEFT JOIN monthly_metrics p ON p.year = extract(year FROM $1 - 1)::int AND p.month = extract(month FROM $1 - 1)::int AND coalesce(p.project_id, '') = coalesce(s.project_id, '')
        AND coalesce(p.ip_asset_id, '') = coalesce(s.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(s.license_id, '')
    LEFT JOIN visitors v ON v.project_id = coalesce(s.project_id, '') AND v.ip_asset_id = coalesce(s.ip_asset_id, '')
        AND v.license_id = coalesce(s.license_id, '')
    ON CONFLICT (year, month, project_id, ip_asset_id, license_id) DO UPDATE
    SET total_views = EXCLUDED.total_views, total_clicks = EXCLUDED.total_clicks, total_conversions = EXCLUDED.total_conversions,
        total_revenue_cents = EXCLUDED.total_revenue_cents, unique_visitors = EXCLUDED.unique_visitors,
        unique_visitors_estimated = EXCLUDED.unique_visitors_estimated, total_engagement_time = EXCLUDED.total_engagement_time,
        views_growth_percent = EXCLUDED.views_growth_percent, clicks_growth_percent = EXCLUDED.clicks_growth_percent,
        conversions_growth_percent = EXCLUDED.conversions_growth_percent, revenue_growth_percent = EXCLUDED.revenue_growth_percent,
        avg_daily_views = EXCLUDED.avg_daily_views, avg_daily_clicks = EXCLUDED.avg_daily_clicks,
        avg_daily_conversions = EXCLUDED.avg_daily_conversions, avg_daily_revenue_cents = EXCLUDED.avg_daily_revenue_cents,
        days_with_data = EXCLUDED.days_with_data, weekly_breakdown = EXCLUDED.weekly_breakdown,
        aggregation_version = EXCLUDED.aggregation_version, updated_at = clock_timestamp()
    WHERE (w.total_views, w.total_clicks, w.total_conversions, w.total_revenue_cents, w.unique_visitors, w.unique_visitors_estimated,
           w.total_engagement_time, w.views_growth_percent, w.clicks_growth_percent, w.conversions_growth_percent, w.revenue_growth_percent,
           w.avg_daily_views, w.avg_daily_clicks, w.avg_daily_conversions, w.avg_daily_revenue_cents, w.days_with_data, w.weekly_breakdown,
           w.aggregation_version)
          IS DISTINCT FROM
          (EXCLUDED.total_views, EXCLUDED.total_clicks, EXCLUDED.total_conversions, EXCLUDED.total_revenue_cents, EXCLUDED.unique_visitors,
           EXCLUDED.unique_visitors_estimated, EXCLUDED.total_engagement_time, EXCLUDED.views_growth_percent, EXCLUDED.clicks_growth_percent,
           EXCLUDED.conversions_growth_percent, EXCLUDED.revenue_growth_percent, EXCLUDED.avg_daily_views, EXCLUDED.avg_daily_clicks,
           EXCLUDED.avg_daily_conversions, EXCLUDED.avg_daily_revenue_cents, EXCLUDED.days_with_data, EXCLUDED.weekly_breakdown,
           EXCLUDED.aggregation_version)
    RETURNING xmax = 0 AS created
), stale AS (
    DELETE FROM monthly_metrics w
    WHERE w.year = extract(year FROM $1)::int AND w.month = extract(month FROM $1)::int
      AND NOT EXISTS (SELECT FROM source s
                      WHERE coalesce(s.project_id, '') = coalesce(w.project_id, '') AND coalesce(s.ip_asset_id, '') = coalesce(w.ip_asset_id, '')
                        AND coalesce(s.license_id, '') = coalesce(w.license_id, ''))
    RETURNING 1
)
SELECT s.processed AS "processed!", s.produced AS "produced!", w.created AS "created!", w.written AS "written!",
       (SELECT count(*) FROM stale) AS "deleted!"
FROM (SELECT coalesce(sum(days), 0)::bigint AS processed, count(*) AS produced FROM source) s,
     (SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written) w
