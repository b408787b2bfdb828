-- $1 events, $2 what their user agents say, $3 whether those are bots
WITH input AS MATERIALIZED (
    -- In the order in which everybody locks events. Who waited here for another enrichment finds nothing more to do.
    SELECT e.id, e.occurred_at, e.created_at, e.session_id, e.project_id, e.ip_asset_id, e.license_id, e.fingerprint, e.idempotency_key,
           a.agent, a.bot,
           lower(left(coalesce(e.props ->> 'utmSource', e.props ->> 'utm_source'), 255)) AS utm_source,
           lower(left(coalesce(e.props ->> 'utmMedium', e.props ->> 'utm_medium'), 255)) AS utm_medium,
           lower(left(coalesce(e.props ->> 'utmCampaign', e.props ->> 'utm_campaign'), 255)) AS utm_campaign,
           lower(left(coalesce(e.props ->> 'utmTerm', e.props ->> 'utm_term'), 255)) AS utm_term,
           lower(left(coalesce(e.props ->> 'utmContent', e.props ->> 'utm_content'), 255)) AS utm_content,
           left(e.props ->> 'referrer', 2048) AS referrer, left(e.props ->> 'landingPage', 2048) AS landing_page
    FROM events e
    JOIN unnest($1::text[], $2::jsonb[], $3::boolean[]) AS a (id, agent, bot) ON a.id = e.id
    WHERE e.enriched_at IS NULL
    ORDER BY e.id
    FOR UPDATE OF e
), first AS (
    SELECT DISTINCT ON (session_id) session_id, occurred_at AS started_at, referrer, landing_page, utm_source, utm_medium, utm_campaign, utm_term,
           utm_content
    FROM input
    WHERE session_id IS NOT NULL
    ORDER BY session_id, occurred_at, id
), opened AS (
    INSERT INTO analytics_sessions (session_id, started_at, referrer, landing_page, utm_source, utm_medium, utm_campaign, utm_term, utm_content)
    SELECT session_id, started_at, referrer, landing_page, utm_source, utm_medium, utm_campaign, utm_term, utm_content FROM first
    ORDER BY session_id
    ON CONFLICT (session_id) DO NOTHING
), attributed AS (
    INSERT INTO attributions AS a (event_id, utm_source, utm_medium, utm_campaign, utm_term, utm_content, referrer, landing_page, device_type,
                                   browser, os)
    SELECT id, utm_source, utm_medium, utm_campaign, utm_term, utm_content, referrer, landing_page, agent ->> 'type', agent ->> 'browser',
           agent ->> 'os'
    FROM input
    ORDER BY id
    ON CONFLICT (event_id) DO UPDATE
    SET utm_source = coalesce(a.utm_source, EXCLUDED.utm_source), utm_medium = coalesce(a.utm_medium, EXCLUDED.utm_medium),
        utm_campaign = coalesce(a.utm_campaign, EXCLUDED.utm_campaign), utm_term = coalesce(a.utm_term, EXCLUDED.utm_term),
        utm_content = coalesce(a.utm_content, EXCLUDED.utm_content), referrer = coalesce(a.referrer, EXCLUDED.referrer),
        landing_page = coalesce(a.landing_page, EXCLUDED.landing_page), device_type = coalesce(a.device_type, EXCLUDED.device_type),
        browser = coalesce(a.browser, EXCLUDED.browser), os = coalesce(a.os, EXCLUDED.os), updated_at = clock_timestamp()
), found AS (
    SELECT i.*, l.id AS license, s.id AS asset, coalesce(i.ip_asset_id, l.ip_asset_id) AS about_asset,
           coalesce(i.project_id, l.project_id, s.project_id) AS about_project, coalesce(k.started_at, f.started_at) AS session_started_at,
           o.original,
           CASE WHEN l.id IS NOT NULL THEN jsonb_build_object(
               'id', l.id, 'status', l.status, 'type', l.license_type, 'startDate', l.start_date, 'endDate', l.end_date, 'feeCents', l.fee_cents,
               'revShareBps', l.rev_share_bps, 'brandId', l.brand_id, 'projectId', l.project_id) END AS license_snapshot,
           CASE WHEN s.id IS NOT NULL THEN jsonb_build_object(
               'id', s.id, 'title', s.title, 'type', s.type, 'status', s.status, 'projectId', s.project_id, 'creatorId', c.creator_id) END
               AS asset_snapshot
    FROM input i
    LEFT JOIN licenses l ON l.id = i.license_id
    LEFT JOIN ip_assets s ON s.id = coalesce(i.ip_asset_id, l.ip_asset_id)
    LEFT JOIN analytics_sessions k ON k.session_id = i.session_id
    LEFT JOIN first f ON f.session_id = i.session_id
    LEFT JOIN LATERAL (
        -- Whoever owns most of it, on the day of the event.
        SELECT w.creator_id FROM ip_ownerships w
        WHERE w.ip_asset_id = s.id AND w.start_date <= (i.occurred_at AT TIME ZONE 'UTC')::date
          AND (w.end_date IS NULL OR w.end_date >= (i.occurred_at AT TIME ZONE 'UTC')::date)
        ORDER BY w.share_bps DESC, w.creator_id LIMIT 1) c ON true
    LEFT JOIN LATERAL (
        -- As the sweep of the aggregation says it.
        SELECT CASE WHEN d.id <> i.id AND (i.idempotency_key IS NULL OR d.idempotency_key IS NULL) THEN d.id END AS original
        FROM events d WHERE d.fingerprint = i.fingerprint ORDER BY d.created_at, d.id LIMIT 1) o ON true
)
UPDATE events e
SET ip_asset_id = f.about_asset, project_id = f.about_project, is_bot = e.is_bot OR f.bot, duplicate_of = f.original, enriched_at = now(),
    enrichment = jsonb_strip_nulls(jsonb_build_object(
        'device', f.agent,
        'session', CASE WHEN f.session_started_at IS NOT NULL THEN jsonb_build_object(
            'startedAt', f.session_started_at,
            'durationMs', greatest(0, floor(extract(epoch FROM f.occurred_at - f.session_started_at) * 1000))::bigint) END,
        'asset', f.asset_snapshot, 'license', f.license_snapshot, 'snapshotAt', now()))
FROM found f
WHERE e.id = f.id
RETURNING e.id, e.duplicate_of
