-- Suspicious log-ins, for people to look at (spec: platform, `failed-login-monitor` and tables).
-- Locks: creates a table only.

CREATE TABLE security_alerts (
    id            text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    alert_type    text NOT NULL CHECK (alert_type IN ('failed_logins', 'ip_spray')),
    -- An e-mail address in lower case, or an IP address.
    subject       text NOT NULL,
    severity      text NOT NULL CHECK (severity IN ('warning', 'critical')),
    status        text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'acknowledged', 'resolved')),
    attempts      int NOT NULL,
    window_start  timestamptz NOT NULL,
    window_end    timestamptz NOT NULL,
    -- The slots that saw it first and last.
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX security_alerts_open ON security_alerts (alert_type, subject) WHERE status = 'open';
CREATE INDEX security_alerts_recent ON security_alerts (created_at DESC);
CREATE INDEX security_alerts_first_seen ON security_alerts (first_seen_at);
