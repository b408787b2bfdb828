-- People and their conversations: the columns that the notification family reads.
-- Locks: creates tables only.

CREATE TABLE users (
    id             text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    email          text UNIQUE,
    name           text,
    role           text,
    email_verified timestamptz,
    is_active      boolean NOT NULL DEFAULT true,
    deleted_at     timestamptz,
    last_login_at  timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE message_threads (
    id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    subject    text,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE messages (
    id           text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    thread_id    text NOT NULL REFERENCES message_threads ON DELETE CASCADE,
    sender_id    text REFERENCES users ON DELETE SET NULL,
    recipient_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    body         text NOT NULL,
    read_at      timestamptz,
    deleted_at   timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX messages_unread ON messages (recipient_id, created_at) WHERE read_at IS NULL AND deleted_at IS NULL;
