-- $1 the hours, $2 the first instant of the first, $3 the first after the last
WITH fresh AS (
    SELECT date_trunc('hour', e.occurred_at, 'UTC') AS hour, e.project_id, e.ip_asset_id, e.license_id,
           count(*) FILTER (WHERE e.counts_as = 'VIEW') AS views,
           count(*) FILTER (WHERE e.counts_as = 'CLICK') AS clicks,
           count(*) FILTER (WHERE e.counts_as = 'CONVERSION') AS conversions,
           coalesce(sum(property_number(e.props, 'revenueCents')), 0)::bigint AS revenue_cents,
           count(DISTINCT e.visitor) AS unique_visitors,
           coalesce(sum(property_number(e.props, 'engagementTime')), 0)::bigint AS engagement_time,
           count(*) AS events
    FROM counted_events e
    WHERE e.occurred_at >= $2 AND e.occurred_at < $3 AND date_trunc('hour', e.occurred_at, 'UTC') = ANY($1::timestamptz[])
      AND num_nonnulls(e.project_id, e.ip_asset_id, e.license_id) > 0
    GROUP BY 1, e.project_id, e.ip_asset_id, e.license_id
), compared AS MATERIALIZED (
    SELECT f.*, m.stored,
           (f.views, f.clicks, f.conversions, f.revenue_cents, f.unique_visitors, f.engagement_time)
           IS DISTINCT FROM
           (m.views, m.clicks, m.conversions, m.revenue_cents, m.unique_visitors, m.engagement_time) AS differs
    FROM fresh f
    FULL JOIN (SELECT ctid AS stored, * FROM hourly_metrics WHERE hour = ANY($1)) m
        ON m.hour = f.hour AND coalesce(m.project_id, '') = coalesce(f.project_id, '')
       AND coalesce(m.ip_asset_id, '') = coalesce(f.ip_asset_id, '') AND coalesce(m.license_id, '') = coalesce(f.license_id, '')
), created AS (
    INSERT INTO hourly_metrics (hour, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors,
                                engagement_time)
    SELECT hour, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time
    FROM compared WHERE stored IS NULL
), updated AS (
    UPDATE hourly_metrics m
    SET views = c.views, clicks = c.clicks, conversions = c.conversions, revenue_cents = c.revenue_cents,
        unique_visitors = c.unique_visitors, engagement_time = c.engagement_time, updated_at = clock_timestamp()
    FROM compared c
    WHERE m.hour = ANY($1) AND m.ctid = c.stored AND c.events IS NOT NULL AND c.differs
), stale AS (
    DELETE FROM hourly_metrics m USING compared c
    WHERE m.hour = ANY($1) AND m.ctid = c.stored AND c.events IS NULL
)
SELECT coalesce(sum(events), 0)::bigint AS "processed!", count(*) FILTER (WHERE stored IS NULL) AS "created!",
       count(*) FILTER (WHERE stored IS NOT NULL AND events IS NOT NULL) AS "updated!",
       count(*) FILTER (WHERE events IS NULL) AS "deleted!", count(*) FILTER (WHERE differs) AS "changed!"
FROM compared
