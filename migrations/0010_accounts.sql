-- What the account family reads of a user, and the audit trail that every family writes (spec: platform, tables).
-- Locks: ACCESS EXCLUSIVE on users, for as long as it takes to read the table once (checks and indexes); no rewrite.

ALTER TABLE users
    ADD avatar_key              text,
    ADD phone_number            text,
    ADD password_hash           text,
    ADD two_factor_secret       text,
    ADD last_login_ip           text,
    -- By an administrator. A lock-out for failed log-ins is locked_until, and ends by itself.
    ADD suspended_at            timestamptz,
    ADD anonymized_at           timestamptz,
    ADD locked_until            timestamptz,
    ADD lock_reason             text,
    ADD failed_login_count      int NOT NULL DEFAULT 0 CHECK (failed_login_count >= 0),
    ADD last_failed_login       timestamptz,
    ADD captcha_required_at     timestamptz,
    ADD auto_logout_after_hours int NOT NULL DEFAULT 24 CHECK (auto_logout_after_hours BETWEEN 1 AND 720),
    ADD max_concurrent_sessions int NOT NULL DEFAULT 5 CHECK (max_concurrent_sessions > 0);

UPDATE users SET role = 'VIEWER' WHERE role IS NULL;
ALTER TABLE users
    ALTER role SET DEFAULT 'VIEWER',
    ALTER role SET NOT NULL,
    ADD CHECK (role IN ('ADMIN', 'CREATOR', 'BRAND', 'VIEWER'));

-- One account an address, however it is spelt: this is the stronger of the two.
CREATE UNIQUE INDEX users_email ON users (lower(email));
ALTER TABLE users DROP CONSTRAINT users_email_key;
CREATE INDEX users_to_erase ON users (deleted_at, id) WHERE deleted_at IS NOT NULL AND anonymized_at IS NULL;
CREATE INDEX users_locked ON users (locked_until) WHERE locked_until IS NOT NULL;

CREATE TABLE audit_events (
    id                text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    timestamp         timestamptz NOT NULL DEFAULT now(),
    action            text NOT NULL,
    entity_type       text NOT NULL,
    entity_id         text NOT NULL,
    -- No foreign key: what happened stays true when the user is gone.
    user_id           text,
    email             text,
    ip_address        text,
    before_state      jsonb,
    after_state       jsonb,
    metadata          jsonb,
    previous_log_hash text,
    entry_hash        text,
    archived          boolean NOT NULL DEFAULT false,
    archived_at       timestamptz
);
CREATE INDEX audit_events_action ON audit_events (action, timestamp DESC);
CREATE INDEX audit_events_failed_logins ON audit_events (lower(email), timestamp) WHERE action = 'LOGIN_FAILED';
CREATE INDEX audit_events_failed_logins_ip ON audit_events (ip_address, timestamp) WHERE action = 'LOGIN_FAILED';
CREATE UNIQUE INDEX audit_events_erasures ON audit_events (action, entity_id)
    WHERE action IN ('ACCOUNT_PERMANENTLY_DELETED', 'BRAND_PERMANENTLY_DELETED');
