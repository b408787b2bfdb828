-- Weekly and monthly roll-ups of daily rows (spec: business, section 3 and tables).
-- One index each: every other one doubles what a roll-up writes.
-- Locks: creates tables only.

CREATE TABLE weekly_metrics (
    week_start_date            date NOT NULL CHECK (extract(isodow FROM week_start_date) = 1),
    week_end_date              date NOT NULL,
    project_id                 text,
    ip_asset_id                text,
    license_id                 text,
    total_views                bigint NOT NULL DEFAULT 0,
    total_clicks               bigint NOT NULL DEFAULT 0,
    total_conversions          bigint NOT NULL DEFAULT 0,
    total_revenue_cents        bigint NOT NULL DEFAULT 0,
    unique_visitors            bigint NOT NULL DEFAULT 0,
    unique_visitors_estimated  boolean NOT NULL DEFAULT false,
    total_engagement_time      bigint NOT NULL DEFAULT 0,
    views_growth_percent       numeric(10,2),
    clicks_growth_percent      numeric(10,2),
    conversions_growth_percent numeric(10,2),
    revenue_growth_percent     numeric(10,2),
    avg_daily_views            numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_clicks           numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_conversions      numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_revenue_cents    numeric(14,2) NOT NULL DEFAULT 0,
    days_in_period             int NOT NULL DEFAULT 7,
    days_with_data             int NOT NULL DEFAULT 0,
    aggregation_version        text NOT NULL DEFAULT '2.0',
    created_at                 timestamptz NOT NULL DEFAULT now(),
    updated_at                 timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (week_start_date, project_id, ip_asset_id, license_id)
);

CREATE TABLE monthly_metrics (
    year                       int NOT NULL,
    month                      int NOT NULL CHECK (month BETWEEN 1 AND 12),
    month_start_date           date NOT NULL CHECK (month_start_date = make_date(year, month, 1)),
    month_end_date             date NOT NULL,
    project_id                 text,
    ip_asset_id                text,
    license_id                 text,
    total_views                bigint NOT NULL DEFAULT 0,
    total_clicks               bigint NOT NULL DEFAULT 0,
    total_conversions          bigint NOT NULL DEFAULT 0,
    total_revenue_cents        bigint NOT NULL DEFAULT 0,
    unique_visitors            bigint NOT NULL DEFAULT 0,
    unique_visitors_estimated  boolean NOT NULL DEFAULT false,
    total_engagement_time      bigint NOT NULL DEFAULT 0,
    views_growth_percent       numeric(10,2),
    clicks_growth_percent      numeric(10,2),
    conversions_growth_percent numeric(10,2),
    revenue_growth_percent     numeric(10,2),
    avg_daily_views            numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_clicks           numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_conversions      numeric(12,2) NOT NULL DEFAULT 0,
    avg_daily_revenue_cents    numeric(14,2) NOT NULL DEFAULT 0,
    days_in_period             int NOT NULL,
    days_with_data             int NOT NULL DEFAULT 0,
    weeks_in_month             int NOT NULL CHECK (weeks_in_month BETWEEN 4 AND 6),
    weekly_breakdown           jsonb NOT NULL,
    views_yoy_percent          numeric(10,2),
    revenue_yoy_percent        numeric(10,2),
    aggregation_version        text NOT NULL DEFAULT '2.0',
    created_at                 timestamptz NOT NULL DEFAULT now(),
    updated_at                 timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (year, month, project_id, ip_asset_id, license_id)
);

-- In percent, two decimals, at most what the column holds. No previous value: nothing to compare with. From zero: 100.
CREATE FUNCTION growth_percent(current bigint, previous bigint) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN previous IS NULL THEN NULL
    WHEN previous = 0 THEN CASE WHEN current > 0 THEN 100 ELSE 0 END
    ELSE greatest(least(round((current - previous) * 100.0 / previous, 2), 99999999.99), -99999999.99)
END;
