-- $1 the hours
WITH source AS MATERIALIZED (
    SELECT h.hour, e.project_id, e.ip_asset_id, e.license_id,
           count(*) FILTER (WHERE e.counts_as = 'VIEW') AS views,
           count(*) FILTER (WHERE e.counts_as = 'CLICK') AS clicks,
           count(*) FILTER (WHERE e.counts_as = 'CONVERSION') AS conversions,
           coalesce(sum(property_number(e.props, 'revenueCents')), 0)::bigint AS revenue_cents,
           count(DISTINCT e.visitor) AS unique_visitors,
           coalesce(sum(property_number(e.props, 'engagementTime')), 0)::bigint AS engagement_time,
           count(*) AS events
    FROM unnest($1::timestamptz[]) AS h (hour)
    JOIN counted_events e ON e.occurred_at >= h.hour AND e.occurred_at < h.hour + interval '1 hour'
    WHERE num_nonnulls(e.project_id, e.ip_asset_id, e.license_id) > 0
    GROUP BY h.hour, e.project_id, e.ip_asset_id, e.license_id
), written AS (
    INSERT INTO hourly_metrics AS m (hour, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors,
                                     engagement_time)
    SELECT hour, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time FROM source
    ON CONFLICT (hour, project_id, ip_asset_id, license_id) DO UPDATE
    SET views = EXCLUDED.views, clicks = EXCLUDED.clicks, conversions = EXCLUDED.conversions, revenue_cents = EXCLUDED.revenue_cents,
        unique_visitors = EXCLUDED.unique_visitors, engagement_time = EXCLUDED.engagement_time, updated_at = clock_timestamp()
    WHERE (m.views, m.clicks, m.conversions, m.revenue_cents, m.unique_visitors, m.engagement_time)
          IS DISTINCT FROM (EXCLUDED.views, EXCLUDED.clicks, EXCLUDED.conversions, EXCLUDED.revenue_cents, EXCLUDED.unique_visitors,
                            EXCLUDED.engagement_time)
    RETURNING xmax = 0 AS created
), stale AS (
    DELETE FROM hourly_metrics m
    WHERE m.hour = ANY($1)
      AND NOT EXISTS (SELECT FROM source s
                      WHERE s.hour = m.hour AND coalesce(s.project_id, '') = coalesce(m.project_id, '')
                        AND coalesce(s.ip_asset_id, '') = coalesce(m.ip_asset_id, '') AND coalesce(s.license_id, '') = coalesce(m.license_id, ''))
    RETURNING 1
)
SELECT s.processed AS "processed!", s.produced AS "produced!", w.created AS "created!", w.written AS "written!",
       (SELECT count(*) FROM stale) AS "deleted!"
FROM (SELECT coalesce(sum(events), 0)::bigint AS processed, count(*) AS produced FROM source) s,
     (SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written) w
