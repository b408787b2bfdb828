-- The mail ledger and what the sender consults (spec: comms, C1, C4, C7, C12 and tables).
-- Locks: creates tables only.

CREATE TABLE email_messages (
    id                 text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    dedup_key          text NOT NULL UNIQUE,
    user_id            text REFERENCES users ON DELETE SET NULL,
    to_email           text NOT NULL CHECK (to_email = lower(btrim(to_email))),
    stream             text NOT NULL CHECK (stream IN ('ESSENTIAL', 'NOTIFICATION', 'DIGEST', 'MARKETING')),
    category           text NOT NULL,
    template           text NOT NULL,
    subject            text,
    variables          jsonb,
    attachments        jsonb NOT NULL DEFAULT '[]',
    priority           text NOT NULL DEFAULT 'MEDIUM' CHECK (priority IN ('LOW', 'MEDIUM', 'HIGH', 'URGENT')),
    status             text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'HELD', 'SENDING', 'SENT', 'SUPPRESSED', 'SKIPPED',
                                                                         'FAILED', 'UNCERTAIN', 'EXPIRED', 'CANCELLED', 'DIGESTED')),
    status_reason      text,
    attempts           int NOT NULL DEFAULT 0,
    next_attempt_at    timestamptz NOT NULL DEFAULT now(),
    not_before         timestamptz,
    expires_at         timestamptz NOT NULL,
    lease_until        timestamptz,
    -- Which claim it is in, for the journal of the process that made it.
    lease_token        text,
    -- ESSENTIAL mail in doubt is sent once more, and only once.
    resent_at          timestamptz,
    sender_domain      text NOT NULL,
    ses_message_id     text UNIQUE,
    sent_at            timestamptz,
    delivered_at       timestamptz,
    delayed_at         timestamptz,
    first_opened_at    timestamptz,
    first_clicked_at   timestamptz,
    bounced_at         timestamptz,
    complained_at      timestamptz,
    rejected_at        timestamptz,
    unsubscribed_at    timestamptz,
    bounce_class       text CHECK (bounce_class IN ('hard', 'soft')),
    delivery_rank      smallint NOT NULL DEFAULT 0,
    campaign_id        text,
    digest_delivery_id text,
    notification_id    text REFERENCES notifications ON DELETE SET NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX email_messages_due ON email_messages (next_attempt_at) WHERE status = 'PENDING';
CREATE INDEX email_messages_sending ON email_messages (lease_until) WHERE status = 'SENDING';
CREATE INDEX email_messages_uncertain ON email_messages (updated_at) WHERE status = 'UNCERTAIN';
CREATE INDEX email_messages_held ON email_messages (user_id, created_at) WHERE status = 'HELD';
CREATE INDEX email_messages_expiring ON email_messages (expires_at) WHERE status IN ('PENDING', 'HELD');
CREATE INDEX email_messages_domain ON email_messages (sender_domain, sent_at);
CREATE INDEX email_messages_user ON email_messages (user_id, stream, sent_at);
CREATE INDEX email_messages_campaign ON email_messages (campaign_id) WHERE campaign_id IS NOT NULL;
CREATE INDEX email_messages_notification ON email_messages (notification_id) WHERE notification_id IS NOT NULL;

CREATE TABLE email_suppressions (
    email           text PRIMARY KEY CHECK (email = lower(btrim(email))),
    reason          text NOT NULL CHECK (reason IN ('BOUNCE', 'COMPLAINT', 'UNSUBSCRIBE', 'MANUAL')),
    scope           text NOT NULL CHECK (scope IN ('ALL', 'ALL_BUT_USER_INITIATED', 'NON_ESSENTIAL')),
    bounce_type     text,
    detail          text,
    source_event_id text,
    suppressed_at   timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX email_suppressions_expiring ON email_suppressions (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE scheduled_emails (
    id                  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id             text REFERENCES users ON DELETE CASCADE,
    to_email            text CHECK (to_email = lower(btrim(to_email))),
    template            text NOT NULL,
    variables           jsonb NOT NULL DEFAULT '{}',
    subject             text,
    scheduled_send_time timestamptz NOT NULL,
    time_zone           text NOT NULL DEFAULT 'UTC',
    recurrence          text CHECK (recurrence IN ('daily', 'weekly', 'monthly')),
    next_occurrence     int NOT NULL DEFAULT 0,
    -- Occurrences are counted from here: after January 31 and February 28 comes March 31.
    first_send_time     timestamptz,
    status              text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SENT', 'FAILED', 'CANCELLED')),
    created_at          timestamptz NOT NULL DEFAULT now(),
    CHECK ((user_id IS NULL) <> (to_email IS NULL))
);
CREATE INDEX scheduled_emails_due ON scheduled_emails (scheduled_send_time) WHERE status = 'PENDING';

CREATE TABLE email_alerts (
    id              text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    type            text NOT NULL,
    period          text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('info', 'warning', 'critical', 'urgent')),
    metric          text,
    current_value   double precision,
    threshold       double precision,
    message         text,
    recommendation  text,
    triggered_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX email_alerts_open ON email_alerts (type, period) WHERE resolved_at IS NULL;

-- What SES allows, as last asked, and how far we throttle ourselves. One row.
CREATE TABLE email_sending_state (
    id                      smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    max_send_rate           numeric NOT NULL DEFAULT 1,
    max_24h_send            numeric NOT NULL DEFAULT -1,
    sent_24h                numeric NOT NULL DEFAULT 0,
    sending_enabled         boolean NOT NULL DEFAULT true,
    enforcement_status      text,
    fetched_at              timestamptz,
    throttle_factor         numeric NOT NULL DEFAULT 1,
    throttled_at            timestamptz,
    reputation_factor       numeric NOT NULL DEFAULT 1,
    marketing_paused        boolean NOT NULL DEFAULT false,
    marketing_paused_reason text,
    created_at              timestamptz NOT NULL DEFAULT now()
);
INSERT INTO email_sending_state DEFAULT VALUES;

CREATE TABLE email_rate_limits (
    lane         text PRIMARY KEY,
    rate_per_sec numeric NOT NULL,
    burst        int NOT NULL DEFAULT 1,
    next_free_at timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO email_rate_limits (lane, rate_per_sec) VALUES ('account', 0.95), ('bulk', 1);

CREATE TABLE circuit_breakers (
    name                text PRIMARY KEY,
    state               text NOT NULL DEFAULT 'CLOSED' CHECK (state IN ('CLOSED', 'OPEN', 'HALF_OPEN')),
    failure_count       int NOT NULL DEFAULT 0,
    window_calls        int NOT NULL DEFAULT 0,
    window_faults       int NOT NULL DEFAULT 0,
    window_started_at   timestamptz,
    last_failure_at     timestamptz,
    opened_at           timestamptz,
    next_probe_at       timestamptz,
    probe_lease_until   timestamptz,
    half_open_successes int NOT NULL DEFAULT 0,
    cooldown_seconds    int NOT NULL DEFAULT 60,
    reason              text,
    updated_at          timestamptz NOT NULL DEFAULT now(),
    created_at          timestamptz NOT NULL DEFAULT now()
);
INSERT INTO circuit_breakers (name) VALUES ('ses');

-- What the rules about mail ask of a user. A missing row of preferences means the defaults.
CREATE VIEW mail_recipients AS
SELECT u.id AS user_id,
       lower(btrim(u.email)) AS email,
       u.name,
       u.deleted_at IS NULL AND u.is_active AS active,
       u.email_verified IS NOT NULL AS verified,
       NOT coalesce(p.email_enabled, true) OR coalesce(p.global_unsubscribe, false) OR p.unsubscribed_at IS NOT NULL AS unsubscribed,
       array_remove(ARRAY[
           CASE WHEN NOT p.royalty_statements THEN 'royalty_statements' END,
           CASE WHEN NOT p.license_expiry THEN 'license_expiry' END,
           CASE WHEN NOT p.project_invitations THEN 'project_invitations' END,
           CASE WHEN NOT p.messages THEN 'messages' END,
           CASE WHEN NOT p.payouts THEN 'payouts' END,
           CASE WHEN NOT p.newsletters THEN 'newsletters' END,
           CASE WHEN NOT p.announcements THEN 'announcements' END,
           CASE WHEN NOT p.reports THEN 'reports' END,
           CASE WHEN NOT p.blog THEN 'blog' END], NULL) AS categories_off,
       coalesce(p.digest_frequency, 'IMMEDIATE') AS digest_frequency,
       coalesce(p.email_frequency, 'IMMEDIATE') AS email_frequency,
       coalesce(p.message_email_mode, 'IMMEDIATE') AS message_email_mode,
       coalesce(p.show_message_preview, true) AS show_message_preview,
       coalesce(p.tracking_enabled, true) AS tracking_enabled,
       coalesce(p.time_zone, 'UTC') AS time_zone,
       p.quiet_hours_start,
       p.quiet_hours_end
FROM users u
LEFT JOIN email_preferences p ON p.user_id = u.id;
