-- A way to the assets that have previews, by id, and to steps whose last run died (spec: assets, `asset-preview-generation` step 6,
-- `upload-cleanup`).
-- Locks: ip_assets and asset_processing_steps against writes while their indexes are built, which reads the tables.

CREATE INDEX ip_assets_previewed ON ip_assets (id)
    WHERE type IN ('VIDEO', 'AUDIO') AND scan_status = 'CLEAN' AND deleted_at IS NULL AND status <> 'REJECTED';

DROP INDEX asset_processing_steps_stuck;
CREATE INDEX asset_processing_steps_stuck
    ON asset_processing_steps ((coalesce(enqueued_at, '1970-01-01T00:00:00Z')), (asset_id || '/' || step || '/' || variant))
    WHERE status IN ('PENDING', 'RUNNING') AND resend_count < 3;
