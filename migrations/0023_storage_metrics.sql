-- What assets take: their derived files, and a snapshot a day (spec: assets, tables and `storage-metrics-calculation`).
-- Locks: creates tables only; the reference locks ip_assets against writes for a moment.

-- A file made from an asset. A new revision supersedes the row; its object lives seven more days.
CREATE TABLE asset_variants (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asset_id        text NOT NULL REFERENCES ip_assets,
    kind            text NOT NULL CHECK (kind IN ('thumbnail', 'preview', 'waveform', 'conversion', 'watermark')),
    name            text NOT NULL,
    storage_key     text NOT NULL,
    mime_type       varchar(100),
    file_size       bigint NOT NULL CHECK (file_size >= 0),
    width           int,
    height          int,
    duration_ms     int,
    bitrate         int,
    checksum_sha256 char(64),
    params_version  int NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    superseded_at   timestamptz
);
CREATE UNIQUE INDEX asset_variants_live ON asset_variants (asset_id, kind, name) WHERE superseded_at IS NULL;
CREATE INDEX asset_variants_superseded ON asset_variants (superseded_at) WHERE superseded_at IS NOT NULL;

CREATE TABLE storage_metrics (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    snapshot_date     date NOT NULL,
    entity_type       text NOT NULL CHECK (entity_type IN ('platform', 'user', 'project', 'brand')),
    -- '' is the platform's: NULLs are never equal, and an upsert would find nothing.
    entity_id         text NOT NULL DEFAULT '',
    total_bytes       bigint NOT NULL,
    file_count        bigint NOT NULL,
    average_file_size bigint NOT NULL,
    largest_file_size bigint NOT NULL,
    largest_file_id   text,
    derived_bytes     bigint NOT NULL DEFAULT 0,
    storage_trend_bps int NOT NULL DEFAULT 0,
    -- {"IMAGE": {"bytes": "6000", "count": 2}}
    breakdown_by_type jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (snapshot_date, entity_type, entity_id)
);
CREATE INDEX storage_metrics_entity ON storage_metrics (entity_type, entity_id, snapshot_date DESC);
-- The first of a month stays for ever.
CREATE INDEX storage_metrics_expiring ON storage_metrics ((snapshot_date::timestamp AT TIME ZONE 'UTC'), (id::text))
    WHERE extract(day FROM snapshot_date) <> 1;
