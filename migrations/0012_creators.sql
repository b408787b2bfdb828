-- Creators, who own work, and what was paid to them (spec: platform, business, comms).
-- Locks: creates tables only; the references lock users against writes for a moment.

CREATE TABLE creators (
    id                          text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id                     text NOT NULL UNIQUE REFERENCES users ON DELETE CASCADE,
    stage_name                  text NOT NULL,
    bio                         text,
    specialties                 jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(specialties) = 'array'),
    social_links                jsonb,
    -- {"status": "available" | "limited" | "unavailable", …}
    availability                jsonb,
    -- {"projectTypes": [], "budgetRange": {"min", "max"}, …}
    preferences                 jsonb,
    performance_metrics         jsonb,
    stripe_account_id           text UNIQUE,
    onboarding_status           text NOT NULL DEFAULT 'pending' CHECK (onboarding_status IN ('pending', 'in_progress', 'completed', 'failed')),
    verification_status         text NOT NULL DEFAULT 'pending' CHECK (verification_status IN ('pending', 'approved', 'rejected')),
    verified_at                 timestamptz,
    last_onboarding_reminder_at timestamptz,
    onboarding_reminder_count   int NOT NULL DEFAULT 0 CHECK (onboarding_reminder_count >= 0),
    -- NULL is the platform's minimum.
    minimum_payout_cents        bigint CHECK (minimum_payout_cents >= 0),
    is_vip                      boolean NOT NULL DEFAULT false,
    search_vector               tsvector,
    deleted_at                  timestamptz,
    created_at                  timestamptz NOT NULL DEFAULT now(),
    updated_at                  timestamptz NOT NULL DEFAULT now()
);
-- Not jsonb_path_ops, which cannot answer "any of these".
CREATE INDEX creators_specialties ON creators USING gin (specialties);
CREATE INDEX creators_verification ON creators (verification_status, onboarding_status, id) WHERE deleted_at IS NULL;

CREATE TABLE payouts (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    creator_id   text NOT NULL REFERENCES creators ON DELETE RESTRICT,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    status       text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')),
    processed_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payouts_creator ON payouts (creator_id, status);
