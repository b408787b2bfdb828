-- The digests (spec: comms, C11): who subscribes to which, and items that cost no foreign keys.
-- Locks: creates a view, a function and a trigger; dropping two constraints locks digest_items, digest_deliveries and users for an instant.

-- The three digests have their frequencies in columns of their own; here they are one question, which the partial indexes answer.
CREATE VIEW digest_subscriptions AS
SELECT 'NOTIFICATION' AS kind, user_id, digest_frequency AS frequency, time_zone, digest_hour, digest_weekday
FROM email_preferences WHERE digest_frequency IN ('DAILY', 'WEEKLY')
UNION ALL
SELECT 'MESSAGE', user_id, message_digest_frequency, time_zone, digest_hour, digest_weekday
FROM email_preferences WHERE message_email_mode = 'DIGEST' AND messages
UNION ALL
SELECT 'EMAIL', user_id, email_frequency, time_zone, digest_hour, digest_weekday
FROM email_preferences WHERE email_frequency IN ('DAILY', 'WEEKLY');

-- A page writes thousands of items in the statement that writes their deliveries. Two foreign keys would look each of them up
-- twice, which costs more than the rest of the page; a user takes its deliveries along, and these their items.
ALTER TABLE digest_items DROP CONSTRAINT digest_items_user_id_fkey, DROP CONSTRAINT digest_items_digest_delivery_id_fkey;

CREATE FUNCTION forget_digest_items() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM digest_items i USING gone WHERE i.digest_delivery_id = gone.id;
    RETURN NULL;
END $$;
CREATE TRIGGER digest_deliveries_forget_items AFTER DELETE ON digest_deliveries
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_digest_items();
