-- What the hourly and daily aggregation makes of events (spec: business, section 3 and tables).
-- No foreign keys: the history of what was deleted stays.
-- Locks: creates tables only.

CREATE TABLE hourly_metrics (
    hour            timestamptz NOT NULL,
    project_id      text,
    ip_asset_id     text,
    license_id      text,
    views           int NOT NULL DEFAULT 0,
    clicks          int NOT NULL DEFAULT 0,
    conversions     int NOT NULL DEFAULT 0,
    revenue_cents   bigint NOT NULL DEFAULT 0,
    unique_visitors int NOT NULL DEFAULT 0,
    engagement_time bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (hour, project_id, ip_asset_id, license_id)
);

-- Days are found by the first column of the unique index.
CREATE TABLE daily_metrics (
    date            date NOT NULL,
    project_id      text,
    ip_asset_id     text,
    license_id      text,
    views           int NOT NULL DEFAULT 0,
    clicks          int NOT NULL DEFAULT 0,
    conversions     int NOT NULL DEFAULT 0,
    revenue_cents   bigint NOT NULL DEFAULT 0,
    unique_visitors int NOT NULL DEFAULT 0,
    engagement_time bigint NOT NULL DEFAULT 0,
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (date, project_id, ip_asset_id, license_id)
);
CREATE INDEX daily_metrics_asset ON daily_metrics (ip_asset_id, date);
CREATE INDEX daily_metrics_license ON daily_metrics (license_id, date);
CREATE INDEX daily_metrics_project ON daily_metrics (project_id, date);

CREATE TABLE post_daily_metrics (
    date                          date NOT NULL,
    post_id                       text NOT NULL,
    views                         int NOT NULL DEFAULT 0,
    unique_visitors               int NOT NULL DEFAULT 0,
    total_engagement_time_seconds bigint NOT NULL DEFAULT 0,
    avg_engagement_time_seconds   numeric(10,2) NOT NULL DEFAULT 0,
    avg_scroll_depth_percentage   numeric(5,2) NOT NULL DEFAULT 0,
    cta_clicks                    int NOT NULL DEFAULT 0,
    shares                        int NOT NULL DEFAULT 0,
    bounce_rate                   numeric(5,2) NOT NULL DEFAULT 0,
    conversion_rate               numeric(5,2) NOT NULL DEFAULT 0,
    email_captures                int NOT NULL DEFAULT 0,
    email_capture_rate            numeric(7,2) NOT NULL DEFAULT 0,
    top_referrers                 jsonb NOT NULL DEFAULT '[]',
    top_cta_types                 jsonb NOT NULL DEFAULT '[]',
    device_breakdown              jsonb NOT NULL DEFAULT '{}',
    source_breakdown              jsonb NOT NULL DEFAULT '{}',
    social_share_breakdown        jsonb NOT NULL DEFAULT '{}',
    created_at                    timestamptz NOT NULL DEFAULT now(),
    updated_at                    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (date, post_id)
);
CREATE INDEX post_daily_metrics_post ON post_daily_metrics (post_id, date);

CREATE TABLE realtime_metrics_cache (
    metric_key      varchar(255) PRIMARY KEY,
    metric_type     text NOT NULL CHECK (metric_type IN ('COUNTER', 'GAUGE', 'HISTOGRAM', 'RATE')),
    current_value   numeric(20,4) NOT NULL,
    previous_value  numeric(20,4),
    last_updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX realtime_metrics_cache_expiring ON realtime_metrics_cache (expires_at) WHERE expires_at IS NOT NULL;

-- Up to when a scan has seen everything.
CREATE TABLE aggregation_watermarks (
    name       text PRIMARY KEY,
    value      timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Whence a reader came: the host without `www.`; nothing for nowhere.
CREATE FUNCTION referrer_host(referrer text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substring(lower(referrer) FROM '^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(?:www\.)?([^/?#:]+)');

-- The first that fits: email, social, organic, referral, direct.
CREATE FUNCTION traffic_source(medium text, source text, referrer_host text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN lower(medium) LIKE '%email%' THEN 'email'
    WHEN lower(medium) LIKE '%social%'
      OR concat_ws(' ', lower(source), referrer_host) ~ '(^|[ .])(facebook|instagram|twitter|linkedin|pinterest|tiktok|youtube|reddit|threads|bluesky|bsky|snapchat|tumblr|mastodon)([ .]|$)'
      OR referrer_host IN ('t.co', 'x.com', 'lnkd.in', 'fb.me', 'youtu.be', 'pin.it') OR lower(source) = 'x' THEN 'social'
    WHEN lower(medium) LIKE '%organic%'
      OR medium IS NULL AND referrer_host ~ '(^|\.)(google|bing|duckduckgo|yahoo|ecosia|baidu|yandex|startpage|qwant|brave)\.' THEN 'organic'
    WHEN medium IS NULL AND referrer_host IS NOT NULL THEN 'referral'
    ELSE 'direct'
END;
