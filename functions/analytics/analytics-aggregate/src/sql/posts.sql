-- $1 date, $2 its first instant, $3 the first after it
WITH reads AS MATERIALIZED (
    SELECT e.post_id, e.event_type, coalesce(e.session_id, 'a:' || e.actor_id, 'e:' || e.id) AS session,
           coalesce(property_number(e.props, 'engagementTimeSeconds'), 0) AS engagement,
           CASE WHEN s.scroll ~ '^\d{1,6}(\.\d{1,6})?$' THEN least(s.scroll::numeric, 100) END AS scroll,
           referrer_host(coalesce(a.referrer, e.props ->> 'referrer')) AS host,
           coalesce(a.utm_medium, lower(e.props ->> 'utmMedium'), lower(e.props ->> 'utm_medium')) AS medium,
           coalesce(a.utm_source, lower(e.props ->> 'utmSource'), lower(e.props ->> 'utm_source')) AS source,
           coalesce(a.device_type, 'desktop') AS device, left(coalesce(e.props ->> 'ctaType', 'unknown'), 100) AS cta_type,
           coalesce(e.props ->> 'conversionValue', '') <> '' AS converted, left(coalesce(e.props ->> 'platform', 'unknown'), 100) AS platform
    FROM counted_events e
    JOIN posts p ON p.id = e.post_id AND p.deleted_at IS NULL
    LEFT JOIN attributions a ON a.event_id = e.id
    CROSS JOIN LATERAL (SELECT coalesce(e.props ->> 'scrollDepthPercentage', e.props ->> 'depthPercentage') AS scroll) s
    WHERE e.occurred_at >= $2 AND e.occurred_at < $3 AND e.post_id IS NOT NULL
), sessions AS (
    SELECT post_id, session, bool_or(event_type = 'post_viewed') AS viewed, least(sum(engagement), 1800) AS engagement, max(scroll) AS scroll,
           bool_or(event_type = 'post_cta_clicked') AS clicked,
           bool_or(event_type IN ('post_cta_clicked', 'post_social_share_clicked', 'post_email_capture')) AS acted
    FROM reads
    GROUP BY post_id, session
), by_session AS (
    SELECT post_id, count(*) FILTER (WHERE viewed) AS visitors, sum(engagement) AS engagement,
           sum(engagement) FILTER (WHERE viewed) AS viewed_engagement, avg(scroll) AS scroll,
           count(*) FILTER (WHERE viewed AND engagement < 30 AND NOT acted) AS bounced, count(*) FILTER (WHERE viewed AND clicked) AS clicked
    FROM sessions
    GROUP BY post_id
), by_event AS (
    SELECT post_id, count(*) AS events, count(*) FILTER (WHERE event_type = 'post_viewed') AS views,
           count(*) FILTER (WHERE event_type = 'post_cta_clicked') AS cta_clicks,
           count(*) FILTER (WHERE event_type = 'post_social_share_clicked') AS shares,
           count(*) FILTER (WHERE event_type = 'post_email_capture') AS email_captures
    FROM reads
    GROUP BY post_id
), referrers AS (
    SELECT post_id, jsonb_agg(jsonb_build_object('host', host, 'views', views) ORDER BY views DESC, host) AS top
    FROM (SELECT post_id, coalesce(host, 'direct') AS host, count(*) AS views,
                 row_number() OVER (PARTITION BY post_id ORDER BY count(*) DESC, coalesce(host, 'direct')) AS n
          FROM reads WHERE event_type = 'post_viewed' GROUP BY post_id, coalesce(host, 'direct')) r
    WHERE n <= 10
    GROUP BY post_id
), ctas AS (
    SELECT post_id, jsonb_agg(jsonb_build_object('type', cta_type, 'clicks', clicks, 'conversions', conversions) ORDER BY clicks DESC, cta_type) AS top
    FROM (SELECT post_id, cta_type, count(*) AS clicks, count(*) FILTER (WHERE converted) AS conversions,
                 row_number() OVER (PARTITION BY post_id ORDER BY count(*) DESC, cta_type) AS n
          FROM reads WHERE event_type = 'post_cta_clicked' GROUP BY post_id, cta_type) c
    WHERE n <= 10
    GROUP BY post_id
), devices AS (
    SELECT post_id, jsonb_object_agg(device, views) AS breakdown
    FROM (SELECT post_id, device, count(*) AS views FROM reads WHERE event_type = 'post_viewed' GROUP BY post_id, device) d
    GROUP BY post_id
), sources AS (
    SELECT post_id, jsonb_object_agg(source, views) AS breakdown
    FROM (SELECT post_id, traffic_source(medium, source, host) AS source, count(*) AS views
          FROM reads WHERE event_type = 'post_viewed' GROUP BY 1, 2) s
    GROUP BY post_id
), platforms AS (
    SELECT post_id, jsonb_object_agg(platform, shares) AS breakdown
    FROM (SELECT post_id, platform, count(*) AS shares FROM reads WHERE event_type = 'post_social_share_clicked' GROUP BY post_id, platform) p
    GROUP BY post_id
), source AS MATERIALIZED (
    SELECT post_id, e.events, e.views, s.visitors, s.engagement, coalesce(s.viewed_engagement / nullif(s.visitors, 0), 0) AS avg_engagement,
           coalesce(s.scroll, 0) AS scroll, e.cta_clicks, e.shares, coalesce(s.bounced * 100.0 / nullif(s.visitors, 0), 0) AS bounce_rate,
           coalesce(s.clicked * 100.0 / nullif(s.visitors, 0), 0) AS conversion_rate, e.email_captures,
           least(coalesce(e.email_captures * 100.0 / nullif(s.visitors, 0), 0), 99999.99) AS email_capture_rate,
           coalesce(referrers.top, '[]') AS top_referrers, coalesce(ctas.top, '[]') AS top_cta_types,
           coalesce(devices.breakdown, '{}') AS devices, coalesce(sources.breakdown, '{}') AS sources, coalesce(platforms.breakdown, '{}') AS platforms
    FROM by_event e
    JOIN by_session s USING (post_id)
    LEFT JOIN referrers USING (post_id)
    LEFT JOIN ctas USING (post_id)
    LEFT JOIN devices USING (post_id)
    LEFT JOIN sources USING (post_id)
    LEFT JOIN platforms USING (post_id)
), written AS (
    INSERT INTO post_daily_metrics AS d (
        date, post_id, views, unique_visitors, total_engagement_time_seconds, avg_engagement_time_seconds, avg_scroll_depth_percentage, cta_clicks,
        shares, bounce_rate, conversion_rate, email_captures, email_capture_rate, top_referrers, top_cta_types, device_breakdown,
        source_breakdown, social_share_breakdown)
    SELECT $1::date, post_id, views, visitors, engagement, avg_engagement, scroll, cta_clicks, shares, bounce_rate, conversion_rate, email_captures,
           email_capture_rate, top_referrers, top_cta_types, devices, sources, platforms
    FROM source
    ON CONFLICT (date, post_id) DO UPDATE
    SET views = EXCLUDED.views, unique_visitors = EXCLUDED.unique_visitors,
        total_engagement_time_seconds = EXCLUDED.total_engagement_time_seconds,
        avg_engagement_time_seconds = EXCLUDED.avg_engagement_time_seconds, avg_scroll_depth_percentage = EXCLUDED.avg_scroll_depth_percentage,
        cta_clicks = EXCLUDED.cta_clicks, shares = EXCLUDED.shares, bounce_rate = EXCLUDED.bounce_rate, conversion_rate = EXCLUDED.conversion_rate,
        email_captures = EXCLUDED.email_captures, email_capture_rate = EXCLUDED.email_capture_rate, top_referrers = EXCLUDED.top_referrers,
        top_cta_types = EXCLUDED.top_cta_types, device_breakdown = EXCLUDED.device_breakdown, source_breakdown = EXCLUDED.source_breakdown,
        social_share_breakdown = EXCLUDED.social_share_breakdown, updated_at = clock_timestamp()
    WHERE (d.views, d.unique_visitors, d.total_engagement_time_seconds, d.avg_engagement_time_seconds, d.avg_scroll_depth_percentage, d.cta_clicks,
           d.shares, d.bounce_rate, d.conversion_rate, d.email_captures, d.email_capture_rate, d.top_referrers, d.top_cta_types,
           d.device_breakdown, d.source_breakdown, d.social_share_breakdown)
          IS DISTINCT FROM
          (EXCLUDED.views, EXCLUDED.unique_visitors, EXCLUDED.total_engagement_time_seconds, EXCLUDED.avg_engagement_time_seconds,
           EXCLUDED.avg_scroll_depth_percentage, EXCLUDED.cta_clicks, EXCLUDED.shares, EXCLUDED.bounce_rate, EXCLUDED.conversion_rate,
           EXCLUDED.email_captures, EXCLUDED.email_capture_rate, EXCLUDED.top_referrers, EXCLUDED.top_cta_types, EXCLUDED.device_breakdown,
           EXCLUDED.source_breakdown, EXCLUDED.social_share_breakdown)
    RETURNING xmax = 0 AS created
), stale AS (
    -- The history of a deleted post stays.
    DELETE FROM post_daily_metrics d
    WHERE d.date = $1 AND d.post_id NOT IN (SELECT post_id FROM source)
      AND NOT EXISTS (SELECT FROM posts p WHERE p.id = d.post_id AND p.deleted_at IS NOT NULL)
    RETURNING 1
)
SELECT s.processed AS "processed!", s.produced AS "produced!", w.created AS "created!", w.written AS "written!",
       (SELECT count(*) FROM stale) AS "deleted!"
FROM (SELECT coalesce(sum(events), 0)::bigint AS processed, count(*) AS produced FROM source) s,
     (SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written) w
