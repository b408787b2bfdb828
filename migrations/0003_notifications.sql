-- Notifications and what a user wants to hear of (spec: comms, C9 and tables).
-- Locks: creates tables only.

CREATE TABLE email_preferences (
    user_id                  text PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    royalty_statements       boolean NOT NULL DEFAULT true,
    license_expiry           boolean NOT NULL DEFAULT true,
    project_invitations      boolean NOT NULL DEFAULT true,
    messages                 boolean NOT NULL DEFAULT true,
    payouts                  boolean NOT NULL DEFAULT true,
    newsletters              boolean NOT NULL DEFAULT true,
    announcements            boolean NOT NULL DEFAULT true,
    reports                  boolean NOT NULL DEFAULT true,
    blog                     boolean NOT NULL DEFAULT true,
    email_enabled            boolean NOT NULL DEFAULT true,
    show_message_preview     boolean NOT NULL DEFAULT true,
    tracking_enabled         boolean NOT NULL DEFAULT true,
    global_unsubscribe       boolean NOT NULL DEFAULT false,
    unsubscribed_at          timestamptz,
    digest_frequency         text NOT NULL DEFAULT 'IMMEDIATE' CHECK (digest_frequency IN ('IMMEDIATE', 'DAILY', 'WEEKLY', 'NEVER')),
    email_frequency          text NOT NULL DEFAULT 'IMMEDIATE' CHECK (email_frequency IN ('IMMEDIATE', 'DAILY', 'WEEKLY', 'NEVER')),
    message_email_mode       text NOT NULL DEFAULT 'IMMEDIATE' CHECK (message_email_mode IN ('IMMEDIATE', 'DIGEST', 'OFF')),
    message_digest_frequency text NOT NULL DEFAULT 'DAILY' CHECK (message_digest_frequency IN ('DAILY', 'WEEKLY')),
    time_zone                text NOT NULL DEFAULT 'UTC',
    digest_hour              smallint NOT NULL DEFAULT 9 CHECK (digest_hour BETWEEN 0 AND 23),
    digest_weekday           smallint NOT NULL DEFAULT 1 CHECK (digest_weekday BETWEEN 1 AND 7),
    quiet_hours_start        time,
    quiet_hours_end          time,
    created_at               timestamptz NOT NULL DEFAULT now(),
    updated_at               timestamptz NOT NULL DEFAULT now(),
    CHECK ((quiet_hours_start IS NULL) = (quiet_hours_end IS NULL))
);
CREATE INDEX email_preferences_digest ON email_preferences (digest_frequency, time_zone, digest_hour, digest_weekday, user_id)
    WHERE digest_frequency IN ('DAILY', 'WEEKLY');
CREATE INDEX email_preferences_email_digest ON email_preferences (email_frequency, time_zone, digest_hour, digest_weekday, user_id)
    WHERE email_frequency IN ('DAILY', 'WEEKLY');
CREATE INDEX email_preferences_message_digest ON email_preferences (message_digest_frequency, time_zone, digest_hour, digest_weekday, user_id)
    WHERE message_email_mode = 'DIGEST';

CREATE TABLE notification_channel_preferences (
    user_id           text NOT NULL REFERENCES users ON DELETE CASCADE,
    notification_type text NOT NULL,
    channel           text NOT NULL CHECK (channel IN ('IN_APP', 'EMAIL')),
    enabled           boolean NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, notification_type, channel)
);

CREATE TABLE message_thread_mutes (
    user_id    text NOT NULL REFERENCES users ON DELETE CASCADE,
    thread_id  text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, thread_id)
);

CREATE TABLE message_email_cooldowns (
    user_id         text NOT NULL REFERENCES users ON DELETE CASCADE,
    thread_id       text NOT NULL,
    last_emailed_at timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, thread_id)
);

CREATE TABLE notifications (
    id                 text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id            text NOT NULL REFERENCES users ON DELETE CASCADE,
    type               text NOT NULL CHECK (type IN ('LICENSE', 'PAYOUT', 'ROYALTY', 'PROJECT', 'SYSTEM', 'MESSAGE',
                                                     'POST_ASSIGNED', 'POST_STATUS_CHANGED', 'BLOG')),
    title              varchar(255) NOT NULL,
    message            text NOT NULL CHECK (char_length(message) <= 1000),
    action_url         text,
    priority           text NOT NULL DEFAULT 'MEDIUM' CHECK (priority IN ('LOW', 'MEDIUM', 'HIGH', 'URGENT')),
    read               boolean NOT NULL DEFAULT false,
    read_at            timestamptz,
    metadata           jsonb NOT NULL DEFAULT '{}',
    dedup_key          text,
    bundle_key         text,
    bundle_count       int NOT NULL DEFAULT 1,
    email_policy       text NOT NULL DEFAULT 'AUTO' CHECK (email_policy IN ('AUTO', 'NONE')),
    email_state        text NOT NULL DEFAULT 'PENDING' CHECK (email_state IN ('PENDING', 'QUEUED', 'SENT', 'SKIPPED', 'FAILED', 'DIGEST', 'DIGESTED')),
    email_state_reason text,
    email_message_id   text,
    emailed_at         timestamptz,
    in_app_at          timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX notifications_dedup ON notifications (user_id, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX notifications_inbox ON notifications (user_id, read, created_at DESC);
CREATE INDEX notifications_type ON notifications (user_id, type);
CREATE INDEX notifications_digestible ON notifications (user_id, created_at) WHERE read = false AND email_state IN ('PENDING', 'DIGEST', 'FAILED');
CREATE INDEX notifications_pending ON notifications (created_at) WHERE email_state = 'PENDING';
CREATE INDEX notifications_read ON notifications (read_at) WHERE read;
CREATE INDEX notifications_unread ON notifications (created_at) WHERE NOT read;

CREATE TABLE notification_bundles (
    user_id         text NOT NULL REFERENCES users ON DELETE CASCADE,
    type            text NOT NULL,
    bundle_key      text NOT NULL,
    notification_id text NOT NULL REFERENCES notifications ON DELETE CASCADE,
    bundle_count    int NOT NULL,
    window_ends_at  timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, type, bundle_key)
);
CREATE INDEX notification_bundles_notification ON notification_bundles (notification_id);

-- Which digest of which slot a user got, and what it carried.
CREATE TABLE digest_deliveries (
    id               text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id          text NOT NULL REFERENCES users ON DELETE CASCADE,
    kind             text NOT NULL CHECK (kind IN ('NOTIFICATION', 'MESSAGE', 'EMAIL')),
    frequency        text NOT NULL,
    period_key       text NOT NULL,
    status           text NOT NULL CHECK (status IN ('ENQUEUED', 'SENT', 'EMPTY', 'FAILED', 'SKIPPED')),
    reason           text,
    item_count       int NOT NULL DEFAULT 0,
    window_start     timestamptz NOT NULL,
    window_end       timestamptz NOT NULL,
    slot_at          timestamptz NOT NULL,
    email_message_id text,
    sent_at          timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, kind, period_key)
);
CREATE INDEX digest_deliveries_enqueued ON digest_deliveries (status) WHERE status = 'ENQUEUED';

CREATE TABLE digest_items (
    kind               text NOT NULL,
    item_id            text NOT NULL,
    user_id            text NOT NULL REFERENCES users ON DELETE CASCADE,
    digest_delivery_id text NOT NULL REFERENCES digest_deliveries ON DELETE CASCADE,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, item_id, user_id)
);
CREATE INDEX digest_items_delivery ON digest_items (digest_delivery_id);

CREATE TABLE digest_states (
    user_id         text NOT NULL REFERENCES users ON DELETE CASCADE,
    kind            text NOT NULL,
    last_sent_at    timestamptz,
    last_window_end timestamptz,
    last_period_key text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, kind)
);
