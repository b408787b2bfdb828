INSERT INTO events (id, occurred_at, event_type, ip_asset_id, session_id)
VALUES ('evt_1', '2025-10-17T12:00:00Z', 'asset_viewed', 'ast_1', 'ses_1');
