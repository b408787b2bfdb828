INSERT INTO users (id, email, name, email_verified) VALUES ('usr_ann', 'ann@example.test', 'Ann', now());
INSERT INTO email_messages (id, dedup_key, user_id, to_email, stream, category, template, status, expires_at, sender_domain, ses_message_id, sent_at)
VALUES ('eml_ann', 'payout:1:COMPLETED', 'usr_ann', 'ann@example.test', 'NOTIFICATION', 'payouts', 'payout-confirmation', 'SENT', now(),
        'yesgoddess.test', '0100019a0c1d2e3f-7b1c0a52-0000', '2025-10-20T09:00:03.123Z');
