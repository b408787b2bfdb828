-- What the sweep of notifications and of the mail ledger walks (spec: comms, `notification-cleanup`): by time, then by id.
-- Locks: SHARE on each table while its index is built; with much data, build them beforehand with CREATE INDEX CONCURRENTLY.

-- A row that was read before anybody noted when counts from its creation.
CREATE INDEX notifications_read_system ON notifications (coalesce(read_at, created_at), id) WHERE read AND type = 'SYSTEM';
CREATE INDEX notifications_read_general ON notifications (coalesce(read_at, created_at), id) WHERE read AND type <> 'SYSTEM';
CREATE INDEX notifications_unread_low ON notifications (created_at, id) WHERE NOT read AND priority IN ('LOW', 'MEDIUM');
-- Made for this sweep, and not what it needs.
DROP INDEX notifications_read;
DROP INDEX notifications_unread;

CREATE INDEX email_messages_age ON email_messages (created_at, id);
CREATE INDEX email_messages_variables ON email_messages (created_at, id) WHERE variables IS NOT NULL;
CREATE INDEX email_events_age ON email_events (occurred_at, id);
CREATE INDEX email_events_details ON email_events (occurred_at, id)
    WHERE event_type IN ('OPENED', 'CLICKED') AND (ip_address IS NOT NULL OR user_agent IS NOT NULL OR raw IS NOT NULL);
CREATE INDEX digest_deliveries_age ON digest_deliveries (created_at, id);
CREATE INDEX notification_bundles_age ON notification_bundles (window_ends_at);
CREATE INDEX message_email_cooldowns_age ON message_email_cooldowns (last_emailed_at);
