-- Brands, who license work, and what they paid (spec: platform, business, comms).
-- Locks: creates tables only; the references lock users against writes for a moment.

CREATE TABLE brands (
    id                        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id                   text NOT NULL UNIQUE REFERENCES users ON DELETE CASCADE,
    company_name              varchar(255) NOT NULL,
    industry                  text,
    verification_status       text NOT NULL DEFAULT 'pending' CHECK (verification_status IN ('pending', 'verified', 'rejected')),
    verification_requested_at timestamptz,
    verified_at               timestamptz,
    -- {"primaryContact": {"name", "title", "email", "phone"?}, …}
    contact_info              jsonb,
    billing_info              jsonb,
    target_audience           jsonb,
    team_members              jsonb,
    website                   text,
    description               text,
    logo_url                  text,
    brand_guidelines_url      text,
    inactive_since            timestamptz,
    reengagement_sent_at      timestamptz,
    reengagement_count        int NOT NULL DEFAULT 0 CHECK (reengagement_count >= 0),
    deleted_at                timestamptz,
    purged_at                 timestamptz,
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX brands_verification ON brands (verification_status, created_at) WHERE deleted_at IS NULL;
CREATE INDEX brands_to_purge ON brands (deleted_at, id) WHERE deleted_at IS NOT NULL AND purged_at IS NULL;

CREATE TABLE payments (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    brand_id     text NOT NULL REFERENCES brands ON DELETE RESTRICT,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    status       text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED', 'REFUNDED')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payments_brand ON payments (brand_id, status, created_at);
