-- A mail's row is written three times, a notification's twice or three times, and each version enters every index. These entries nobody
-- looks for.
-- Locks: ACCESS EXCLUSIVE on email_messages and notifications while two indexes are built; with much data, build them beforehand with
-- CREATE INDEX CONCURRENTLY.

-- Only what was sent is counted by domain, or known to SES.
DROP INDEX email_messages_domain;
CREATE INDEX email_messages_domain ON email_messages (sender_domain, sent_at) WHERE sent_at IS NOT NULL;
ALTER TABLE email_messages DROP CONSTRAINT email_messages_ses_message_id_key;
CREATE UNIQUE INDEX email_messages_ses_message_id_key ON email_messages (ses_message_id) WHERE ses_message_id IS NOT NULL;
-- Who asks for a user's notifications of a type finds the user's by `notifications_inbox`: they are few.
DROP INDEX notifications_type;
