-- Assets and who owns them (spec: assets 0.1 and tables, business tables).
-- Locks: creates tables only; the references lock projects, users and creators against writes for a moment.

CREATE TABLE ip_assets (
    id                      text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    project_id              text REFERENCES projects ON DELETE RESTRICT,
    title                   varchar(255) NOT NULL,
    description             text,
    type                    text NOT NULL CHECK (type IN ('IMAGE', 'VIDEO', 'AUDIO', 'DOCUMENT', 'THREE_D', 'OTHER')),
    storage_key             text NOT NULL UNIQUE,
    file_size               bigint NOT NULL CHECK (file_size > 0),
    mime_type               varchar(100),
    thumbnail_key           text,
    preview_key             text,
    version                 int NOT NULL DEFAULT 1 CHECK (version > 0),
    parent_asset_id         text REFERENCES ip_assets ON DELETE RESTRICT,
    -- The user's own: jobs do not write here.
    metadata                jsonb,
    processing_config       jsonb,
    status                  text NOT NULL DEFAULT 'DRAFT'
                            CHECK (status IN ('DRAFT', 'PROCESSING', 'REVIEW', 'APPROVED', 'PUBLISHED', 'REJECTED', 'ARCHIVED')),
    scan_status             text NOT NULL DEFAULT 'PENDING' CHECK (scan_status IN ('PENDING', 'SCANNING', 'CLEAN', 'INFECTED', 'ERROR')),
    scan_result             jsonb,
    upload_confirmed_at     timestamptz,
    scan_started_at         timestamptz,
    scan_lease_until        timestamptz,
    scan_lease_token        uuid,
    scan_request_id         text,
    scan_completed_at       timestamptz,
    scan_requeue_count      int NOT NULL DEFAULT 0 CHECK (scan_requeue_count >= 0),
    scan_requeued_at        timestamptz,
    content_sha256          char(64),
    rejection_reason        text,
    rejected_at             timestamptz,
    quarantine_key          text,
    quarantined_at          timestamptz,
    quarantine_completed_at timestamptz,
    processing_completed_at timestamptz,
    purge_started_at        timestamptz,
    purge_failed_count      int NOT NULL DEFAULT 0 CHECK (purge_failed_count >= 0),
    purge_failed_at         timestamptz,
    purge_blocked_reason    text,
    purged_at               timestamptz,
    search_vector           tsvector,
    created_by              text NOT NULL REFERENCES users ON DELETE RESTRICT,
    updated_by              text,
    deleted_at              timestamptz,
    created_at              timestamptz NOT NULL DEFAULT now(),
    -- Jobs set it only when the status changes.
    updated_at              timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ip_assets_to_purge ON ip_assets (deleted_at, id) WHERE deleted_at IS NOT NULL AND purged_at IS NULL;
CREATE INDEX ip_assets_abandoned ON ip_assets (created_at, id) WHERE upload_confirmed_at IS NULL AND deleted_at IS NULL;
CREATE INDEX ip_assets_rejected ON ip_assets (rejected_at, id) WHERE status = 'REJECTED' AND deleted_at IS NULL;
CREATE INDEX ip_assets_infected ON ip_assets (quarantined_at, id) WHERE scan_status = 'INFECTED' AND purged_at IS NULL;
CREATE INDEX ip_assets_processing ON ip_assets (upload_confirmed_at) WHERE status = 'PROCESSING';
CREATE INDEX ip_assets_project ON ip_assets (project_id, status);
CREATE INDEX ip_assets_creator ON ip_assets (created_by, status);
CREATE INDEX ip_assets_type ON ip_assets (type, status);
CREATE INDEX ip_assets_parent ON ip_assets (parent_asset_id) WHERE parent_asset_id IS NOT NULL;

-- An application that knows nothing of the column confirms an upload by its change of status.
CREATE FUNCTION ip_assets_confirm_upload() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.upload_confirmed_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER ip_assets_confirm_upload BEFORE UPDATE OF status ON ip_assets FOR EACH ROW
    WHEN (OLD.status = 'DRAFT' AND NEW.status = 'PROCESSING' AND NEW.upload_confirmed_at IS NULL)
    EXECUTE FUNCTION ip_assets_confirm_upload();

-- Who owns how much of an asset, from the first day to the last: both are days on which it is owned, as with a licence's.
-- NULL is open. A transfer ends one row and starts the next one the day after.
CREATE TABLE ip_ownerships (
    id                   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    ip_asset_id          text NOT NULL REFERENCES ip_assets ON DELETE RESTRICT,
    creator_id           text NOT NULL REFERENCES creators ON DELETE RESTRICT,
    share_bps            int NOT NULL CHECK (share_bps BETWEEN 0 AND 10000),
    ownership_type       text NOT NULL DEFAULT 'PRIMARY' CHECK (ownership_type IN ('PRIMARY', 'CONTRIBUTOR', 'DERIVATIVE', 'TRANSFERRED')),
    start_date           date NOT NULL,
    end_date             date,
    contract_reference   text,
    legal_doc_url        text,
    legal_doc_key        text,
    legal_doc_checked_at timestamptz,
    notes                jsonb,
    disputed             boolean NOT NULL DEFAULT false,
    disputed_at          timestamptz,
    dispute_reason       text,
    disputed_by          text,
    resolved_at          timestamptz,
    resolved_by          text,
    resolution_notes     text,
    created_by           text,
    updated_by           text,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    CHECK (end_date >= start_date)
);
CREATE INDEX ip_ownerships_asset ON ip_ownerships (ip_asset_id, start_date, end_date);
CREATE INDEX ip_ownerships_creator ON ip_ownerships (creator_id);
CREATE INDEX ip_ownerships_ending ON ip_ownerships (end_date) WHERE end_date IS NOT NULL;

-- On any day an asset is owned wholly or not at all. The sum changes only where a row starts or has ended, so these days are
-- all that has to be looked at. At commit, because two owners are two rows.
CREATE FUNCTION ip_ownerships_are_whole() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asset text;
    wrong record;
BEGIN
    FOREACH asset IN ARRAY CASE TG_OP
        WHEN 'INSERT' THEN ARRAY[NEW.ip_asset_id]
        WHEN 'DELETE' THEN ARRAY[OLD.ip_asset_id]
        ELSE ARRAY[OLD.ip_asset_id, NEW.ip_asset_id] END
    LOOP
        -- Of two transactions that each look right alone, the second waits here and sees the first.
        PERFORM FROM ip_assets WHERE id = asset FOR NO KEY UPDATE;
        SELECT boundary.day, sum(o.share_bps) AS total INTO wrong
        FROM (SELECT start_date AS day FROM ip_ownerships WHERE ip_asset_id = asset
              UNION SELECT end_date + 1 FROM ip_ownerships WHERE ip_asset_id = asset AND end_date IS NOT NULL) boundary
        JOIN ip_ownerships o ON o.ip_asset_id = asset AND boundary.day BETWEEN o.start_date AND coalesce(o.end_date, 'infinity')
        GROUP BY boundary.day
        HAVING sum(o.share_bps) NOT IN (0, 10000)
        ORDER BY boundary.day
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'the shares of asset % total % basis points on %, not 10000', asset, wrong.total, wrong.day
                USING ERRCODE = 'check_violation', TABLE = 'ip_ownerships';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ip_ownerships_are_whole AFTER INSERT OR DELETE OR UPDATE OF ip_asset_id, share_bps, start_date, end_date
    ON ip_ownerships DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION ip_ownerships_are_whole();
