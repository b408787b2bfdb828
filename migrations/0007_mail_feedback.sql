-- What became of mails after SES had them, and what recipients asked for (spec: comms, `email-events` and tables).
-- Locks: creates tables only.

-- One row per event of SES and recipient. The key makes an event that comes again the same row.
CREATE TABLE email_events (
    id               text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    event_key        text NOT NULL UNIQUE,
    email_message_id text REFERENCES email_messages ON DELETE CASCADE,
    ses_message_id   text NOT NULL,
    user_id          text REFERENCES users ON DELETE SET NULL,
    email            text NOT NULL,
    -- UNSUBSCRIBED is SES's own subscription event; OTHER is one that we do not know.
    event_type       text NOT NULL CHECK (event_type IN ('SENT', 'DELIVERED', 'DELAYED', 'OPENED', 'CLICKED', 'BOUNCED', 'COMPLAINED',
                                                         'REJECTED', 'FAILED', 'UNSUBSCRIBED', 'OTHER')),
    occurred_at      timestamptz NOT NULL,
    bounce_type      text,
    bounce_sub_type  text,
    diagnostic       text,
    feedback_type    text,
    clicked_url      text,
    machine          boolean NOT NULL DEFAULT false,
    ip_address       inet,
    user_agent       text,
    device_type      text,
    raw              jsonb,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX email_events_message ON email_events (email_message_id);
CREATE INDEX email_events_address ON email_events (email, event_type, occurred_at);
CREATE INDEX email_events_type ON email_events (event_type, occurred_at);
CREATE INDEX email_events_user ON email_events (user_id) WHERE user_id IS NOT NULL;

-- Every real change of what a recipient wants, with what it was before.
CREATE TABLE email_unsubscribe_log (
    id          text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id     text REFERENCES users ON DELETE SET NULL,
    email       text NOT NULL,
    action      text NOT NULL CHECK (action IN ('CATEGORY', 'DIGEST', 'GLOBAL', 'RESUBSCRIBE')),
    source      text NOT NULL CHECK (source IN ('one_click', 'email_link', 'preference_center', 'admin', 'complaint')),
    categories  text[] NOT NULL,
    previous    jsonb,
    current     jsonb,
    campaign_id text,
    token_hash  text,
    ip_address  inet,
    user_agent  text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX email_unsubscribe_log_user ON email_unsubscribe_log (user_id) WHERE user_id IS NOT NULL;

-- How far an address reads what it is sent; the score is made when it is read.
CREATE TABLE email_engagements (
    email             text PRIMARY KEY CHECK (email = lower(btrim(email))),
    sent_count        int NOT NULL DEFAULT 0,
    unique_open_count int NOT NULL DEFAULT 0,
    click_count       int NOT NULL DEFAULT 0,
    last_engaged_at   timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
