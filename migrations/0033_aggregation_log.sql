-- The log of aggregation runs, which is their lock too, and the periods that have to be computed again (spec: business, section 3).
-- Locks: creates tables only.

CREATE TABLE metrics_aggregation_jobs_log (
    id                text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    job_type          varchar(50) NOT NULL CHECK (job_type IN ('hourly', 'daily', 'post_daily', 'weekly', 'monthly', 'reconcile', 'license_performance')),
    period_start_date date NOT NULL,
    period_end_date   date NOT NULL,
    -- One row a message and period: a redelivery takes its row again.
    run_key           text NOT NULL UNIQUE,
    attempt           int NOT NULL DEFAULT 1,
    trigger           text NOT NULL CHECK (trigger IN ('schedule', 'hourly', 'dirty', 'backfill', 'manual')),
    started_at        timestamptz NOT NULL,
    completed_at      timestamptz,
    status            text NOT NULL CHECK (status IN ('RUNNING', 'COMPLETED', 'FAILED', 'PARTIAL')),
    records_processed bigint NOT NULL DEFAULT 0,
    records_created   bigint NOT NULL DEFAULT 0,
    records_updated   bigint NOT NULL DEFAULT 0,
    records_deleted   bigint NOT NULL DEFAULT 0,
    errors_count      int NOT NULL DEFAULT 0,
    duration_seconds  numeric(10,2),
    memory_used_mb    int,
    error_message     text,
    error_stack       text,
    metadata          jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX metrics_aggregation_jobs_log_running ON metrics_aggregation_jobs_log (job_type, period_start_date) WHERE status = 'RUNNING';
CREATE INDEX metrics_aggregation_jobs_log_period ON metrics_aggregation_jobs_log (job_type, period_start_date DESC);
CREATE INDEX metrics_aggregation_jobs_log_status ON metrics_aggregation_jobs_log (status, started_at DESC);

-- A mark goes with a recomputation that began after it was made.
CREATE TABLE metrics_dirty_periods (
    granularity  text NOT NULL CHECK (granularity IN ('day', 'week', 'month')),
    period_start date NOT NULL,
    marked_at    timestamptz NOT NULL,
    reason       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (granularity, period_start)
);
