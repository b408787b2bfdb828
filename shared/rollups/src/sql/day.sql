-- $1 date, $2 its first instant, $3 the first after it
WITH counted AS (
    SELECT project_id, ip_asset_id, license_id,
           count(*) FILTER (WHERE counts_as = 'VIEW') AS views,
           count(*) FILTER (WHERE counts_as = 'CLICK') AS clicks,
           count(*) FILTER (WHERE counts_as = 'CONVERSION') AS conversions,
           coalesce(sum(property_number(props, 'revenueCents')), 0)::bigint AS revenue_cents,
           count(DISTINCT visitor) AS unique_visitors,
           coalesce(sum(property_number(props, 'engagementTime')), 0)::bigint AS engagement_time,
           count(*) FILTER (WHERE property_malformed(props, 'revenueCents') OR property_malformed(props, 'engagementTime')) AS malformed,
           count(*) AS events
    FROM counted_events
    WHERE occurred_at >= $2 AND occurred_at < $3 AND num_nonnulls(project_id, ip_asset_id, license_id) > 0
    GROUP BY project_id, ip_asset_id, license_id
), fresh AS (
    SELECT *, CASE WHEN malformed > 0 THEN jsonb_build_object('malformed', malformed) ELSE '{}' END AS metadata FROM counted
), compared AS MATERIALIZED (
    SELECT f.*, d.stored,
           (f.views, f.clicks, f.conversions, f.revenue_cents, f.unique_visitors, f.engagement_time, f.metadata)
           IS DISTINCT FROM
           (d.views, d.clicks, d.conversions, d.revenue_cents, d.unique_visitors, d.engagement_time, d.metadata) AS differs
    FROM fresh f
    FULL JOIN (SELECT ctid AS stored, * FROM daily_metrics WHERE date = $1) d
        ON coalesce(d.project_id, '') = coalesce(f.project_id, '') AND coalesce(d.ip_asset_id, '') = coalesce(f.ip_asset_id, '')
       AND coalesce(d.license_id, '') = coalesce(f.license_id, '')
), created AS (
    INSERT INTO daily_metrics (date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors,
                               engagement_time, metadata)
    SELECT $1, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time, metadata
    FROM compared WHERE stored IS NULL
), updated AS (
    UPDATE daily_metrics d
    SET views = c.views, clicks = c.clicks, conversions = c.conversions, revenue_cents = c.revenue_cents,
        unique_visitors = c.unique_visitors, engagement_time = c.engagement_time, metadata = c.metadata, updated_at = clock_timestamp()
    FROM compared c
    WHERE d.date = $1 AND d.ctid = c.stored AND c.events IS NOT NULL AND c.differs
), stale AS (
    DELETE FROM daily_metrics d USING compared c
    WHERE d.date = $1 AND d.ctid = c.stored AND c.events IS NULL
)
SELECT coalesce(sum(events), 0)::bigint AS "processed!", coalesce(sum(malformed), 0)::bigint AS "malformed!",
       count(*) FILTER (WHERE stored IS NULL) AS "created!",
       count(*) FILTER (WHERE stored IS NOT NULL AND events IS NOT NULL) AS "updated!",
       count(*) FILTER (WHERE events IS NULL) AS "deleted!", count(*) FILTER (WHERE differs) AS "changed!"
FROM compared
