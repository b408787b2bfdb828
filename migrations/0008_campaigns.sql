-- Campaigns and their recipients, which the feedback of SES moves and counts (spec: comms, `email-campaign`, `email-events` and tables).
-- Locks: creates tables only.

CREATE TABLE email_campaigns (
    id                     text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name                   varchar(255) NOT NULL,
    description            text,
    created_by             text NOT NULL REFERENCES users,
    status                 text NOT NULL DEFAULT 'DRAFT' CHECK (status IN ('DRAFT', 'SCHEDULED', 'SENDING', 'PAUSED', 'COMPLETED',
                                                                           'CANCELLED', 'FAILED')),
    generation             int NOT NULL DEFAULT 1,
    template               text NOT NULL,
    subject                varchar(500) NOT NULL,
    preview_text           varchar(200),
    template_variables     jsonb NOT NULL DEFAULT '{}',
    segment_criteria       jsonb,
    scheduled_send_time    timestamptz,
    timezone               text NOT NULL DEFAULT 'UTC',
    send_in_recipient_zone boolean NOT NULL DEFAULT false,
    messages_per_hour      int NOT NULL DEFAULT 1000 CHECK (messages_per_hour BETWEEN 1 AND 10000),
    batch_size             int NOT NULL DEFAULT 100 CHECK (batch_size BETWEEN 1 AND 1000),
    tags                   text[] NOT NULL DEFAULT '{}',
    audience_built_at      timestamptz,
    send_started_at        timestamptz,
    send_completed_at      timestamptz,
    next_batch_at          timestamptz,
    last_progress_at       timestamptz,
    paused_at              timestamptz,
    cancelled_at           timestamptz,
    cancelled_by           text,
    pause_reason           text,
    cancellation_reason    text,
    failure_reason         text,
    recipient_count        int NOT NULL DEFAULT 0,
    sent_count             int NOT NULL DEFAULT 0,
    failed_count           int NOT NULL DEFAULT 0,
    skipped_count          int NOT NULL DEFAULT 0,
    suppressed_count       int NOT NULL DEFAULT 0,
    cancelled_count        int NOT NULL DEFAULT 0,
    delivered_count        int NOT NULL DEFAULT 0,
    opened_count           int NOT NULL DEFAULT 0,
    clicked_count          int NOT NULL DEFAULT 0,
    bounced_count          int NOT NULL DEFAULT 0,
    complained_count       int NOT NULL DEFAULT 0,
    unsubscribed_count     int NOT NULL DEFAULT 0,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX email_campaigns_due ON email_campaigns (status, scheduled_send_time);
CREATE INDEX email_campaigns_creator ON email_campaigns (created_by, created_at);

-- SES may report a mail before its campaign has settled it: `status` then is DELIVERED or more already. Whoever counts goes by `sent_at`,
-- which is set when, and only when, `sent_count` of the campaign counts the recipient.
CREATE TABLE campaign_recipients (
    id               text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    campaign_id      text NOT NULL REFERENCES email_campaigns ON DELETE CASCADE,
    user_id          text REFERENCES users ON DELETE SET NULL,
    email            text NOT NULL,
    status           text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'QUEUED', 'SENT', 'DELIVERED', 'OPENED', 'CLICKED', 'BOUNCED',
                                                                       'FAILED', 'UNSUBSCRIBED', 'COMPLAINED', 'SUPPRESSED', 'SKIPPED',
                                                                       'CANCELLED')),
    -- The ranks of `email_messages.delivery_rank`; it never falls.
    status_rank      smallint NOT NULL DEFAULT 0,
    uncertain        boolean NOT NULL DEFAULT false,
    retry_count      int NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    queued_at        timestamptz,
    sent_at          timestamptz,
    delivered_at     timestamptz,
    opened_at        timestamptz,
    first_clicked_at timestamptz,
    bounced_at       timestamptz,
    unsubscribed_at  timestamptz,
    complained_at    timestamptz,
    error_message    text,
    personalization  jsonb,
    email_message_id text,
    message_id       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (campaign_id, email)
) WITH (fillfactor = 80);
CREATE INDEX campaign_recipients_pending ON campaign_recipients (campaign_id, id) WHERE status = 'PENDING';
CREATE INDEX campaign_recipients_queued ON campaign_recipients (campaign_id, queued_at) WHERE status = 'QUEUED';
CREATE INDEX campaign_recipients_status ON campaign_recipients (campaign_id, status);
CREATE INDEX campaign_recipients_user ON campaign_recipients (user_id, sent_at);
CREATE INDEX campaign_recipients_mail ON campaign_recipients (email_message_id) WHERE email_message_id IS NOT NULL;
CREATE INDEX campaign_recipients_message ON campaign_recipients (message_id) WHERE message_id IS NOT NULL;

CREATE TABLE email_campaign_clicks (
    id             text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    campaign_id    text NOT NULL REFERENCES email_campaigns ON DELETE CASCADE,
    recipient_id   text NOT NULL REFERENCES campaign_recipients ON DELETE CASCADE,
    email_event_id text NOT NULL UNIQUE REFERENCES email_events ON DELETE CASCADE,
    clicked_url    text,
    clicked_at     timestamptz NOT NULL,
    device_type    text,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX email_campaign_clicks_url ON email_campaign_clicks (campaign_id, clicked_url);
CREATE INDEX email_campaign_clicks_recipient ON email_campaign_clicks (recipient_id);
