-- $1 date, $2 its first instant, $3 the first after it
WITH source AS MATERIALIZED (
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
), written AS (
    INSERT INTO daily_metrics AS d (date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors,
                                    engagement_time, metadata)
    SELECT $1::date, project_id, ip_asset_id, license_id, views, clicks, conversions, revenue_cents, unique_visitors, engagement_time,
           CASE WHEN malformed > 0 THEN jsonb_build_object('malformed', malformed) ELSE '{}' END
    FROM source
    ON CONFLICT (date, project_id, ip_asset_id, license_id) DO UPDATE
    SET views = EXCLUDED.views, clicks = EXCLUDED.clicks, conversions = EXCLUDED.conversions, revenue_cents = EXCLUDED.revenue_cents,
        unique_visitors = EXCLUDED.unique_visitors, engagement_time = EXCLUDED.engagement_time, metadata = EXCLUDED.metadata,
        updated_at = clock_timestamp()
    WHERE (d.views, d.clicks, d.conversions, d.revenue_cents, d.unique_visitors, d.engagement_time, d.metadata)
          IS DISTINCT FROM (EXCLUDED.views, EXCLUDED.clicks, EXCLUDED.conversions, EXCLUDED.revenue_cents, EXCLUDED.unique_visitors,
                            EXCLUDED.engagement_time, EXCLUDED.metadata)
    RETURNING xmax = 0 AS created
), stale AS (
    DELETE FROM daily_metrics d
    WHERE d.date = $1
      AND NOT EXISTS (SELECT FROM source s
                      WHERE coalesce(s.project_id, '') = coalesce(d.project_id, '') AND coalesce(s.ip_asset_id, '') = coalesce(d.ip_asset_id, '')
                        AND coalesce(s.license_id, '') = coalesce(d.license_id, ''))
    RETURNING 1
)
SELECT s.processed AS "processed!", s.produced AS "produced!", s.malformed AS "malformed!", w.created AS "created!", w.written AS "written!",
       (SELECT count(*) FROM stale) AS "deleted!"
FROM (SELECT coalesce(sum(events), 0)::bigint AS processed, count(*) AS produced, coalesce(sum(malformed), 0)::bigint AS malformed FROM source) s,
     (SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written) w
