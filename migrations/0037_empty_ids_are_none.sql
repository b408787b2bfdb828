-- An empty id of an event's subject is none: roll-ups compare what is there with what should be by coalesce(id, '').
-- Locks: replaces a view.
CREATE OR REPLACE VIEW counted_events AS
SELECT e.id, e.occurred_at, e.event_type, t.counts_as, e.actor_id, e.session_id, nullif(e.project_id, '') AS project_id,
       nullif(e.ip_asset_id, '') AS ip_asset_id, nullif(e.license_id, '') AS license_id, e.post_id, e.props,
       coalesce(e.actor_id, 's:' || e.session_id) AS visitor
FROM events e
JOIN event_types t ON t.event_type = e.event_type
WHERE e.duplicate_of IS NULL AND NOT e.is_bot
  AND e.occurred_at BETWEEN e.created_at - interval '365 days' AND e.created_at + interval '1 hour';
