-- $1 the first, $2 the last day, $3 whether all events of the month are still there, $4 and $5 first and last days of its weeks
WITH weeks AS (
    SELECT project_id, ip_asset_id, license_id, greatest(date_trunc('week', date)::date, $1) AS week_start, sum(views) AS views,
           sum(clicks) AS clicks, sum(conversions) AS conversions, sum(revenue_cents)::bigint AS revenue_cents,
           sum(unique_visitors) AS unique_visitors, sum(engagement_time)::bigint AS engagement_time, count(*) AS days
    FROM daily_metrics
    WHERE date BETWEEN $1 AND $2
    GROUP BY 1, 2, 3, 4
), days AS (
    SELECT project_id, ip_asset_id, license_id, sum(views)::bigint AS total_views, sum(clicks)::bigint AS total_clicks,
           sum(conversions)::bigint AS total_conversions, sum(revenue_cents)::bigint AS total_revenue_cents,
           sum(unique_visitors)::bigint AS unique_visitors, sum(engagement_time)::bigint AS total_engagement_time,
           sum(days)::int AS days_with_data,
           jsonb_object_agg(week_start, jsonb_build_object('views', views, 'clicks', clicks, 'conversions', conversions,
                                                           'revenueCents', revenue_cents)) AS weeks
    FROM weeks
    GROUP BY project_id, ip_asset_id, license_id
), visitors AS (
    SELECT coalesce(project_id, '') AS project_id, coalesce(ip_asset_id, '') AS ip_asset_id, coalesce(license_id, '') AS license_id,
           count(DISTINCT visitor) AS unique_visitors
    FROM counted_events
    WHERE $3 AND occurred_at >= $1::timestamp AT TIME ZONE 'UTC' AND occurred_at < ($2 + 1)::timestamp AT TIME ZONE 'UTC'
      AND num_nonnulls(project_id, ip_asset_id, license_id) > 0
    GROUP BY 1, 2, 3
), fresh AS (
    SELECT d.project_id, d.ip_asset_id, d.license_id, d.total_views, d.total_clicks, d.total_conversions, d.total_revenue_cents,
           CASE WHEN $3 THEN coalesce(v.unique_visitors, 0) ELSE d.unique_visitors END AS unique_visitors,
           NOT $3 AS unique_visitors_estimated, d.total_engagement_time,
           growth_percent(d.total_views, p.total_views) AS views_growth_percent,
           growth_percent(d.total_clicks, p.total_clicks) AS clicks_growth_percent,
           growth_percent(d.total_conversions, p.total_conversions) AS conversions_growth_percent,
           growth_percent(d.total_revenue_cents, p.total_revenue_cents) AS revenue_growth_percent,
           round(d.total_views::numeric / ($2 - $1 + 1), 2) AS avg_daily_views,
           round(d.total_clicks::numeric / ($2 - $1 + 1), 2) AS avg_daily_clicks,
           round(d.total_conversions::numeric / ($2 - $1 + 1), 2) AS avg_daily_conversions,
           round(d.total_revenue_cents::numeric / ($2 - $1 + 1), 2) AS avg_daily_revenue_cents, d.days_with_data,
           (SELECT jsonb_agg('{"views": 0, "clicks": 0, "conversions": 0, "revenueCents": 0}' || coalesce(d.weeks -> w.week_start::text, '{}')
                             || jsonb_build_object('weekStart', w.week_start, 'weekEnd', w.week_end) ORDER BY w.week_start)
            FROM unnest($4::date[], $5::date[]) AS w (week_start, week_end)) AS weekly_breakdown,
           '2.0' AS aggregation_version
    FROM days d
    LEFT JOIN monthly_metrics p ON p.year = extract(year FROM $1 - 1)::int AND p.month = extract(month FROM $1 - 1)::int AND coalesce(p.project_id, '') = coalesce(d.project_id, '')
        AND coalesce(p.ip_asset_id, '') = coalesce(d.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(d.license_id, '')
    LEFT JOIN visitors v ON v.project_id = coalesce(d.project_id, '') AND v.ip_asset_id = coalesce(d.ip_asset_id, '')
        AND v.license_id = coalesce(d.license_id, '')
), compared AS MATERIALIZED (
    SELECT f.*, m.stored,
           (f.total_views, f.total_clicks, f.total_conversions, f.total_revenue_cents, f.unique_visitors, f.unique_visitors_estimated,
            f.total_engagement_time, f.views_growth_percent, f.clicks_growth_percent, f.conversions_growth_percent, f.revenue_growth_percent,
            f.avg_daily_views, f.avg_daily_clicks, f.avg_daily_conversions, f.avg_daily_revenue_cents, f.days_with_data, f.weekly_breakdown,
            f.aggregation_version)
           IS DISTINCT FROM
           (m.total_views, m.total_clicks, m.total_conversions, m.total_revenue_cents, m.unique_visitors, m.unique_visitors_estimated,
            m.total_engagement_time, m.views_growth_percent, m.clicks_growth_percent, m.conversions_growth_percent, m.revenue_growth_percent,
            m.avg_daily_views, m.avg_daily_clicks, m.avg_daily_conversions, m.avg_daily_revenue_cents, m.days_with_data, m.weekly_breakdown,
            m.aggregation_version)
           AS differs
    FROM fresh f
    FULL JOIN (SELECT ctid AS stored, * FROM monthly_metrics
               WHERE year = extract(year FROM $1)::int AND month = extract(month FROM $1)::int) m
        ON coalesce(m.project_id, '') = coalesce(f.project_id, '') AND coalesce(m.ip_asset_id, '') = coalesce(f.ip_asset_id, '')
       AND coalesce(m.license_id, '') = coalesce(f.license_id, '')
), created AS (
    INSERT INTO monthly_metrics (
        year, month, month_start_date, month_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
        total_revenue_cents, unique_visitors, unique_visitors_estimated, total_engagement_time, views_growth_percent, clicks_growth_percent,
        conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions, avg_daily_revenue_cents,
        days_in_period, days_with_data, weeks_in_month, weekly_breakdown, aggregation_version)
    SELECT extract(year FROM $1), extract(month FROM $1), $1, $2, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions,
           total_revenue_cents, unique_visitors, unique_visitors_estimated, total_engagement_time, views_growth_percent, clicks_growth_percent,
           conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions, avg_daily_revenue_cents,
           $2 - $1 + 1, days_with_data, cardinality($4::date[]), weekly_breakdown, aggregation_version
    FROM compared WHERE stored IS NULL
), updated AS (
    UPDATE monthly_metrics m
    SET total_views = c.total_views, total_clicks = c.total_clicks, total_conversions = c.total_conversions,
        total_revenue_cents = c.total_revenue_cents, unique_visitors = c.unique_visitors,
        unique_visitors_estimated = c.unique_visitors_estimated, total_engagement_time = c.total_engagement_time,
        views_growth_percent = c.views_growth_percent, clicks_growth_percent = c.clicks_growth_percent,
        conversions_growth_percent = c.conversions_growth_percent, revenue_growth_percent = c.revenue_growth_percent,
        avg_daily_views = c.avg_daily_views, avg_daily_clicks = c.avg_daily_clicks, avg_daily_conversions = c.avg_daily_conversions,
        avg_daily_revenue_cents = c.avg_daily_revenue_cents, days_with_data = c.days_with_data, weekly_breakdown = c.weekly_breakdown,
        aggregation_version = c.aggregation_version, updated_at = clock_timestamp()
    FROM compared c
    WHERE m.year = extract(year FROM $1)::int AND m.month = extract(month FROM $1)::int
      AND m.ctid = c.stored AND c.days_with_data IS NOT NULL AND c.differs
), stale AS (
    DELETE FROM monthly_metrics m USING compared c
    WHERE m.year = extract(year FROM $1)::int AND m.month = extract(month FROM $1)::int
      AND m.ctid = c.stored AND c.days_with_data IS NULL
)
SELECT coalesce(sum(days_with_data), 0)::bigint AS "processed!", count(*) FILTER (WHERE stored IS NULL) AS "created!",
       count(*) FILTER (WHERE stored IS NOT NULL AND days_with_data IS NOT NULL) AS "updated!",
       count(*) FILTER (WHERE days_with_data IS NULL) AS "deleted!", count(*) FILTER (WHERE differs) AS "changed!"
FROM compared
