-- A way to the assets that have previews, by id (spec: assets, `asset-preview-generation` step 6).
-- Locks: ip_assets against writes while the index is built, which reads the table.

CREATE INDEX ip_assets_previewed ON ip_assets (id)
    WHERE type IN ('VIDEO', 'AUDIO') AND scan_status = 'CLEAN' AND deleted_at IS NULL AND status <> 'REJECTED';
