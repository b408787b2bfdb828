-- Licences (spec: business, section 0 and tables).
-- Locks: creates a table only; the references lock ip_assets, brands and projects against writes for a moment.

CREATE TABLE licenses (
    id                        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    ip_asset_id               text NOT NULL REFERENCES ip_assets ON DELETE RESTRICT,
    brand_id                  text NOT NULL REFERENCES brands ON DELETE RESTRICT,
    project_id                text REFERENCES projects ON DELETE RESTRICT,
    parent_license_id         text REFERENCES licenses ON DELETE RESTRICT,
    license_type              text NOT NULL CHECK (license_type IN ('EXCLUSIVE', 'NON_EXCLUSIVE', 'EXCLUSIVE_TERRITORY')),
    status                    text NOT NULL DEFAULT 'DRAFT'
                              CHECK (status IN ('DRAFT', 'PENDING_APPROVAL', 'PENDING_SIGNATURE', 'ACTIVE', 'EXPIRING_SOON', 'EXPIRED',
                                                'RENEWED', 'TERMINATED', 'DISPUTED', 'CANCELED', 'SUSPENDED')),
    -- Days in UTC, both of them in force.
    start_date                date NOT NULL,
    end_date                  date NOT NULL,
    fee_cents                 bigint NOT NULL DEFAULT 0 CHECK (fee_cents >= 0),
    rev_share_bps             int NOT NULL DEFAULT 0 CHECK (rev_share_bps BETWEEN 0 AND 10000),
    billing_frequency         text CHECK (billing_frequency IN ('ONE_TIME', 'MONTHLY', 'QUARTERLY', 'ANNUALLY')),
    payment_terms             text,
    -- {"media": {"digital", "print", "broadcast", "ooh"}, "placement": {…}, "geographic": {"territories": []},
    --  "exclusivity": {"category", "competitors": []}}
    scope                     jsonb NOT NULL DEFAULT '{}',
    auto_renew                boolean NOT NULL DEFAULT false,
    signed_at                 timestamptz,
    -- NULL is the platform's default of 7, 0 is none.
    grace_period_days         int CHECK (grace_period_days >= 0),
    grace_period_end_date     date,
    grace_notice_sent_at      timestamptz,
    expired_at                timestamptz,
    expiry_effects_done_at    timestamptz,
    notices_for_end_date      date,
    ninety_day_notice_sent_at timestamptz,
    sixty_day_notice_sent_at  timestamptz,
    thirty_day_notice_sent_at timestamptz,
    renewal_notified_at       timestamptz,
    usage_tracking_enabled    boolean NOT NULL DEFAULT true,
    last_usage_at             timestamptz,
    total_usage_events        bigint NOT NULL DEFAULT 0 CHECK (total_usage_events >= 0),
    search_vector             tsvector,
    created_by                text,
    updated_by                text,
    deleted_at                timestamptz,
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now(),
    CHECK (end_date >= start_date)
);
CREATE INDEX licenses_ending ON licenses (status, end_date) WHERE deleted_at IS NULL;
CREATE INDEX licenses_grace ON licenses (grace_period_end_date) WHERE grace_period_end_date IS NOT NULL;
CREATE INDEX licenses_brand ON licenses (brand_id, status);
CREATE INDEX licenses_asset ON licenses (ip_asset_id, status, end_date);
CREATE INDEX licenses_project ON licenses (project_id);
CREATE INDEX licenses_parent ON licenses (parent_license_id) WHERE parent_license_id IS NOT NULL;
-- A licence has one successor.
CREATE UNIQUE INDEX licenses_successor ON licenses (parent_license_id)
    WHERE status IN ('DRAFT', 'PENDING_APPROVAL', 'PENDING_SIGNATURE', 'ACTIVE', 'EXPIRING_SOON') AND deleted_at IS NULL;
