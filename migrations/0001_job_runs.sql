-- The runtime's own tables: the ledger of runs, the outbox, exclusive leases.
-- Locks: creates tables only.

-- One row per (job, run key): claim, attempt counter, lease, history and progress.
CREATE TABLE job_runs (
    job             text NOT NULL,
    run_key         text NOT NULL,
    status          text NOT NULL CHECK (status IN ('running', 'done', 'skipped', 'continued', 'deferred', 'retrying', 'dead')),
    trigger         text NOT NULL CHECK (trigger IN ('message', 'schedule', 'event', 'invoke', 'continuation', 'redrive')),
    message_id      text,
    as_of           timestamptz,
    attempts        int NOT NULL DEFAULT 0,
    crashes         int NOT NULL DEFAULT 0,
    -- Fencing: a run may write its row only while the token is its own. Stamped by the database clock.
    lease_token     text,
    lease_until     timestamptz,
    next_attempt_at timestamptz,
    reason          text,
    error           text,
    report          jsonb,
    progress        jsonb,
    trace_id        text,
    first_seen_at   timestamptz NOT NULL,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    PRIMARY KEY (job, run_key)
) WITH (fillfactor = 80);
CREATE INDEX job_runs_recent ON job_runs (job, started_at DESC);
CREATE INDEX job_runs_open ON job_runs (status, started_at) WHERE status IN ('running', 'deferred', 'retrying', 'dead');

-- Messages that leave with the transaction that wrote them. A row is deleted when SQS has the message.
CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue         text NOT NULL,
    body          text NOT NULL,
    attributes    jsonb NOT NULL DEFAULT '{}',
    delay_seconds int NOT NULL DEFAULT 0 CHECK (delay_seconds BETWEEN 0 AND 900),
    -- The writer sends its own rows right after the commit; the relay takes them once this has passed.
    claimed_until timestamptz NOT NULL DEFAULT clock_timestamp() + interval '30 seconds',
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_claimable ON outbox (claimed_until);

-- At most one holder of a key, for work of which only one may run at a time.
CREATE TABLE exclusive_leases (
    key         text PRIMARY KEY,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL
);
