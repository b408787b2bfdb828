-- A notification's state changes two or three times, and a row whose indexed columns change enters every index again. The digest finds
-- a user's notifications by `notifications_inbox`; and who waits for its delivery is a column of its own, which changes only once.
-- Locks: ACCESS EXCLUSIVE on notifications while its rows are written anew.

DROP INDEX notifications_digestible;
DROP INDEX notifications_pending;
ALTER TABLE notifications ADD COLUMN pending_since timestamptz GENERATED ALWAYS AS (CASE WHEN email_state = 'PENDING' THEN created_at END) STORED;
CREATE INDEX notifications_pending ON notifications (pending_since) WHERE pending_since IS NOT NULL;
