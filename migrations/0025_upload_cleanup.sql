-- What is left to do for an asset after its scan, and ways to find what `upload-cleanup` sweeps (spec: assets 0.3 and tables).
-- Locks: ip_assets and asset_variants against writes while their indexes are built, which reads the tables.

-- One row for each thing to be made. A message asks for it; the row says whether it still has to be made.
CREATE TABLE asset_processing_steps (
    asset_id        text NOT NULL REFERENCES ip_assets ON DELETE CASCADE,
    step            text NOT NULL CHECK (step IN ('thumbnail', 'metadata', 'preview', 'format_conversion', 'quality_validation', 'watermark')),
    -- Of a conversion its name, of a watermark its request.
    variant         text NOT NULL DEFAULT '',
    status          text NOT NULL DEFAULT 'PENDING'
                    CHECK (status IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'SKIPPED', 'FAILED', 'CANCELLED')),
    required        boolean NOT NULL DEFAULT false,
    -- Of what FAILED.
    retryable       boolean NOT NULL DEFAULT false,
    attempts        int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    lease_token     uuid,
    lease_until     timestamptz,
    enqueued_at     timestamptz,
    resend_count    int NOT NULL DEFAULT 0 CHECK (resend_count >= 0),
    started_at      timestamptz,
    finished_at     timestamptz,
    duration_ms     int,
    reason_code     text,
    error_message   varchar(500),
    last_request_id text,
    result          jsonb,
    PRIMARY KEY (asset_id, step, variant)
);
CREATE INDEX asset_processing_steps_open ON asset_processing_steps (status, enqueued_at) WHERE status IN ('PENDING', 'RUNNING');
-- What was never enqueued is the oldest.
CREATE INDEX asset_processing_steps_stuck
    ON asset_processing_steps ((coalesce(enqueued_at, '1970-01-01T00:00:00Z')), (asset_id || '/' || step || '/' || variant))
    WHERE status = 'PENDING' AND resend_count < 3;

-- Of assets that are older than `upload_confirmed_at` none was confirmed: the index on that alone holds all of them.
CREATE INDEX ip_assets_unconfirmed ON ip_assets (created_at, id)
    WHERE status = 'DRAFT' AND scan_status = 'PENDING' AND upload_confirmed_at IS NULL AND deleted_at IS NULL;
DROP INDEX ip_assets_abandoned;
CREATE INDEX ip_assets_stuck ON ip_assets ((coalesce(scan_requeued_at, upload_confirmed_at)), id)
    WHERE status = 'PROCESSING' AND scan_status IN ('PENDING', 'SCANNING') AND deleted_at IS NULL;
-- What people have rejected stays for ever, and must not be looked at every hour.
CREATE INDEX ip_assets_failed ON ip_assets (rejected_at, id)
    WHERE status = 'REJECTED' AND purged_at IS NULL
      AND rejection_reason IN ('SCAN_ERROR', 'UNSCANNABLE', 'TYPE_MISMATCH', 'TOO_LARGE', 'EMPTY_FILE', 'OBJECT_MISSING');

-- The end of an asset is that of all its variants, superseded ones too.
CREATE INDEX asset_variants_asset ON asset_variants (asset_id);
