-- What the API remembers of requests that must not be done twice (spec: platform, `idempotency-cleanup`).
-- Locks: creates a table only.

CREATE TABLE idempotency_keys (
    id              text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    key             text NOT NULL UNIQUE,
    entity_type     text NOT NULL,
    entity_id       text,
    request_hash    text,
    response_status int,
    response_body   jsonb,
    processed       boolean NOT NULL DEFAULT false,
    -- Since when a request holds the key; a lease of five minutes.
    processing_at   timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);
CREATE INDEX idempotency_keys_expiring ON idempotency_keys (expires_at, id);
CREATE INDEX idempotency_keys_entity ON idempotency_keys (entity_type, entity_id);
CREATE INDEX idempotency_keys_processing ON idempotency_keys (processing_at) WHERE NOT processed;
