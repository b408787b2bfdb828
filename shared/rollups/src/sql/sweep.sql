-- $1 from, $2 to. The first of those that look the same is the event, and the others are its duplicates; but two keys are two events.
WITH crowded AS MATERIALIZED (
    SELECT fingerprint FROM events WHERE occurred_at >= $1 AND occurred_at < $2 GROUP BY fingerprint HAVING count(*) > 1
), grouped AS (
    SELECT e.id, e.idempotency_key, first_value(e.id) OVER same AS first_id, first_value(e.idempotency_key) OVER same AS first_key
    FROM events e
    WHERE e.occurred_at >= $1 AND e.occurred_at < $2 AND e.fingerprint IN (SELECT fingerprint FROM crowded)
    WINDOW same AS (PARTITION BY e.fingerprint ORDER BY e.created_at, e.id)
), judged AS (
    SELECT id, CASE WHEN id <> first_id AND (idempotency_key IS NULL OR first_key IS NULL) THEN first_id END AS original FROM grouped
), wrong AS MATERIALIZED (
    -- In the order in which everybody locks events.
    SELECT e.id, j.original FROM events e JOIN judged j ON j.id = e.id
    WHERE e.duplicate_of IS DISTINCT FROM j.original ORDER BY e.id FOR UPDATE OF e
)
UPDATE events e SET duplicate_of = w.original FROM wrong w WHERE e.id = w.id
