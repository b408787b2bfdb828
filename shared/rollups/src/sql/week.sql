-- $1 the Monday, $2 whether all events of the week are still there
WITH days AS (
    SELECT project_id, ip_asset_id, license_id, sum(views) AS total_views, sum(clicks) AS total_clicks, sum(conversions) AS total_conversions,
           sum(revenue_cents)::bigint AS total_revenue_cents, sum(unique_visitors) AS unique_visitors,
           sum(engagement_time)::bigint AS total_engagement_time, count(*)::int AS days_with_data
    FROM daily_metrics
    WHERE date BETWEEN $1 AND $1 + 6
    GROUP BY project_id, ip_asset_id, license_id
), visitors AS (
    SELECT coalesce(project_id, '') AS project_id, coalesce(ip_asset_id, '') AS ip_asset_id, coalesce(license_id, '') AS license_id,
           count(DISTINCT visitor) AS unique_visitors
    FROM counted_events
    WHERE $2 AND occurred_at >= $1::timestamp AT TIME ZONE 'UTC' AND occurred_at < ($1 + 7)::timestamp AT TIME ZONE 'UTC'
      AND num_nonnulls(project_id, ip_asset_id, license_id) > 0
    GROUP BY 1, 2, 3
), fresh AS (
    SELECT d.project_id, d.ip_asset_id, d.license_id, d.total_views, d.total_clicks, d.total_conversions, d.total_revenue_cents,
           CASE WHEN $2 THEN coalesce(v.unique_visitors, 0) ELSE d.unique_visitors END AS unique_visitors,
           NOT $2 AS unique_visitors_estimated, d.total_engagement_time,
           growth_percent(d.total_views, p.total_views) AS views_growth_percent,
           growth_percent(d.total_clicks, p.total_clicks) AS clicks_growth_percent,
           growth_percent(d.total_conversions, p.total_conversions) AS conversions_growth_percent,
           growth_percent(d.total_revenue_cents, p.total_revenue_cents) AS revenue_growth_percent,
           round(d.total_views / 7.0, 2) AS avg_daily_views, round(d.total_clicks / 7.0, 2) AS avg_daily_clicks,
           round(d.total_conversions / 7.0, 2) AS avg_daily_conversions, round(d.total_revenue_cents / 7.0, 2) AS avg_daily_revenue_cents,
           d.days_with_data, '2.0' AS aggregation_version
    FROM days d
    LEFT JOIN weekly_metrics p ON p.week_start_date = $1 - 7 AND coalesce(p.project_id, '') = coalesce(d.project_id, '')
        AND coalesce(p.ip_asset_id, '') = coalesce(d.ip_asset_id, '') AND coalesce(p.license_id, '') = coalesce(d.license_id, '')
    LEFT JOIN visitors v ON v.project_id = coalesce(d.project_id, '') AND v.ip_asset_id = coalesce(d.ip_asset_id, '')
        AND v.license_id = coalesce(d.license_id, '')
), compared AS MATERIALIZED (
    SELECT f.*, w.stored,
           (f.total_views, f.total_clicks, f.total_conversions, f.total_revenue_cents, f.unique_visitors, f.unique_visitors_estimated,
            f.total_engagement_time, f.views_growth_percent, f.clicks_growth_percent, f.conversions_growth_percent, f.revenue_growth_percent,
            f.avg_daily_views, f.avg_daily_clicks, f.avg_daily_conversions, f.avg_daily_revenue_cents, f.days_with_data, f.aggregation_version)
           IS DISTINCT FROM
           (w.total_views, w.total_clicks, w.total_conversions, w.total_revenue_cents, w.unique_visitors, w.unique_visitors_estimated,
            w.total_engagement_time, w.views_growth_percent, w.clicks_growth_percent, w.conversions_growth_percent, w.revenue_growth_percent,
            w.avg_daily_views, w.avg_daily_clicks, w.avg_daily_conversions, w.avg_daily_revenue_cents, w.days_with_data, w.aggregation_version)
           AS differs
    FROM fresh f
    FULL JOIN (SELECT ctid AS stored, * FROM weekly_metrics WHERE week_start_date = $1) w
        ON coalesce(w.project_id, '') = coalesce(f.project_id, '') AND coalesce(w.ip_asset_id, '') = coalesce(f.ip_asset_id, '')
       AND coalesce(w.license_id, '') = coalesce(f.license_id, '')
), created AS (
    INSERT INTO weekly_metrics (
        week_start_date, week_end_date, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions, total_revenue_cents,
        unique_visitors, unique_visitors_estimated, total_engagement_time, views_growth_percent, clicks_growth_percent,
        conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions, avg_daily_revenue_cents,
        days_in_period, days_with_data, aggregation_version)
    SELECT $1, $1 + 6, project_id, ip_asset_id, license_id, total_views, total_clicks, total_conversions, total_revenue_cents,
           unique_visitors, unique_visitors_estimated, total_engagement_time, views_growth_percent, clicks_growth_percent,
           conversions_growth_percent, revenue_growth_percent, avg_daily_views, avg_daily_clicks, avg_daily_conversions, avg_daily_revenue_cents,
           7, days_with_data, aggregation_version
    FROM compared WHERE stored IS NULL
), updated AS (
    UPDATE weekly_metrics w
    SET total_views = c.total_views, total_clicks = c.total_clicks, total_conversions = c.total_conversions,
        total_revenue_cents = c.total_revenue_cents, unique_visitors = c.unique_visitors,
        unique_visitors_estimated = c.unique_visitors_estimated, total_engagement_time = c.total_engagement_time,
        views_growth_percent = c.views_growth_percent, clicks_growth_percent = c.clicks_growth_percent,
        conversions_growth_percent = c.conversions_growth_percent, revenue_growth_percent = c.revenue_growth_percent,
        avg_daily_views = c.avg_daily_views, avg_daily_clicks = c.avg_daily_clicks, avg_daily_conversions = c.avg_daily_conversions,
        avg_daily_revenue_cents = c.avg_daily_revenue_cents, days_with_data = c.days_with_data,
        aggregation_version = c.aggregation_version, updated_at = clock_timestamp()
    FROM compared c
    WHERE w.week_start_date = $1 AND w.ctid = c.stored AND c.days_with_data IS NOT NULL AND c.differs
), stale AS (
    DELETE FROM weekly_metrics w USING compared c
    WHERE w.week_start_date = $1 AND w.ctid = c.stored AND c.days_with_data IS NULL
)
SELECT coalesce(sum(days_with_data), 0)::bigint AS "processed!", count(*) FILTER (WHERE stored IS NULL) AS "created!",
       count(*) FILTER (WHERE stored IS NOT NULL AND days_with_data IS NOT NULL) AS "updated!",
       count(*) FILTER (WHERE days_with_data IS NULL) AS "deleted!", count(*) FILTER (WHERE differs) AS "changed!"
FROM compared
