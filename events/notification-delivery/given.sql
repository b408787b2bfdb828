INSERT INTO users (id, email, name, email_verified) VALUES ('usr_ann', 'ann@example.test', 'Ann', now());
INSERT INTO notifications (id, user_id, type, title, message, priority)
VALUES ('ntf_payout', 'usr_ann', 'PAYOUT', 'You were paid', '1,250.00 USD are on their way.', 'HIGH');
