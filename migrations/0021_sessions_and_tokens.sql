-- What the application remembers of people who are signed in, or about to be (spec: platform, tables). Secrets are kept as hashes.
-- Every index that a sweep walks ends with the id: it goes by time, and then by id.
-- Locks: creates tables only; the references lock users against writes for a moment.

CREATE TABLE sessions (
    id                 text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    session_token_hash text NOT NULL UNIQUE,
    user_id            text NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at         timestamptz NOT NULL,
    last_activity_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at         timestamptz,
    revoked_reason     text,
    ip_address         text,
    user_agent         text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX sessions_expiring ON sessions (expires_at, id) WHERE revoked_at IS NULL;
CREATE INDEX sessions_revoked ON sessions (revoked_at, id) WHERE revoked_at IS NOT NULL;
CREATE INDEX sessions_idle ON sessions (last_activity_at, id) WHERE revoked_at IS NULL;
CREATE INDEX sessions_user ON sessions (user_id) WHERE revoked_at IS NULL;

CREATE TABLE verification_tokens (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX verification_tokens_expiring ON verification_tokens (expires_at, id);
CREATE INDEX verification_tokens_user ON verification_tokens (user_id);

CREATE TABLE password_reset_tokens (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX password_reset_tokens_expiring ON password_reset_tokens (expires_at, id) WHERE used_at IS NULL;
CREATE INDEX password_reset_tokens_used ON password_reset_tokens (used_at, id) WHERE used_at IS NOT NULL;
CREATE INDEX password_reset_tokens_user ON password_reset_tokens (user_id);

CREATE TABLE temporary_auth_tokens (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX temporary_auth_tokens_expiring ON temporary_auth_tokens (expires_at, id);
CREATE INDEX temporary_auth_tokens_user ON temporary_auth_tokens (user_id);

CREATE TABLE trusted_devices (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX trusted_devices_expiring ON trusted_devices (expires_at, id);
CREATE INDEX trusted_devices_user ON trusted_devices (user_id);

CREATE TABLE step_up_tokens (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash text NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX step_up_tokens_expiring ON step_up_tokens (expires_at, id);
CREATE INDEX step_up_tokens_user ON step_up_tokens (user_id);

CREATE TABLE remember_me_tokens (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id      text NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash   text NOT NULL UNIQUE,
    last_used_at timestamptz,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX remember_me_tokens_expiring ON remember_me_tokens (expires_at, id);
CREATE INDEX remember_me_tokens_idle ON remember_me_tokens (coalesce(last_used_at, created_at), id);
CREATE INDEX remember_me_tokens_user ON remember_me_tokens (user_id);
