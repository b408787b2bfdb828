use services::Error;
use sqlx::PgPool;

/// Lets deliveries follow their mails, when these have ended: the given ones, or all, at most `limit`. Returns how many did.
///
/// * SENT, or in doubt: SENT, and the user's window moves on. In doubt is once at most: the items stay with the mail.
/// * FAILED: the items go back, and into the next slot.
/// * Refused, expired or cancelled: SKIPPED, and the items go back, too.
///
/// Whoever dispatches mails may call it: two at once take different rows, and what a crash left is found by the next one.
pub async fn settle(pool: &PgPool, deliveries: Option<&[String]>, limit: i64) -> Result<i64, Error> {
    let settled = sqlx::query_scalar!(
        r#"WITH ended AS MATERIALIZED (
               SELECT d.id, d.user_id, d.kind, d.period_key, d.window_start, d.window_end, m.status_reason, m.sent_at,
                      CASE WHEN m.status IN ('SENT', 'UNCERTAIN') OR m.status_reason = 'unconfirmed' THEN 'SENT'
                           WHEN m.status = 'FAILED' THEN 'FAILED' ELSE 'SKIPPED' END AS outcome
               FROM digest_deliveries d JOIN email_messages m ON m.id = d.email_message_id
               WHERE d.status = 'ENQUEUED' AND ($1::text[] IS NULL OR d.id = ANY($1))
                 AND m.status IN ('SENT', 'UNCERTAIN', 'FAILED', 'SUPPRESSED', 'SKIPPED', 'EXPIRED', 'CANCELLED')
               LIMIT $2
               FOR UPDATE OF d SKIP LOCKED
           ), settled AS (
               UPDATE digest_deliveries d SET status = e.outcome, reason = e.status_reason, sent_at = e.sent_at
               FROM ended e WHERE d.id = e.id
           ), states AS (
               INSERT INTO digest_states AS s (user_id, kind, last_sent_at, last_window_end, last_period_key)
               SELECT user_id, kind, max(window_end) FILTER (WHERE outcome = 'SENT'),
                      -- The next window begins two hours before: where the one that failed began.
                      max(CASE outcome WHEN 'SENT' THEN window_end ELSE window_start + interval '2 hours' END),
                      (array_agg(period_key ORDER BY window_end DESC) FILTER (WHERE outcome = 'SENT'))[1]
               FROM ended GROUP BY user_id, kind
               ON CONFLICT (user_id, kind) DO UPDATE
               SET last_sent_at = greatest(s.last_sent_at, EXCLUDED.last_sent_at), last_window_end = greatest(s.last_window_end, EXCLUDED.last_window_end),
                   last_period_key = CASE WHEN s.last_sent_at > EXCLUDED.last_sent_at THEN s.last_period_key
                                          ELSE coalesce(EXCLUDED.last_period_key, s.last_period_key) END
           ), released AS (
               DELETE FROM digest_items i USING ended e WHERE i.digest_delivery_id = e.id AND e.outcome <> 'SENT'
               RETURNING i.kind, i.item_id
           ), notifications_back AS (
               UPDATE notifications n SET email_state = CASE WHEN n.priority IN ('HIGH', 'URGENT') THEN 'FAILED' ELSE 'DIGEST' END
               FROM released r WHERE r.kind = 'NOTIFICATION' AND n.id = r.item_id AND n.email_state = 'DIGESTED'
           ), mails_back AS (
               UPDATE email_messages m SET status = 'HELD', updated_at = clock_timestamp()
               FROM released r WHERE r.kind = 'EMAIL' AND m.id = r.item_id AND m.status = 'DIGESTED'
           ), owners AS (
               UPDATE notifications n SET email_state = 'SENT', email_state_reason = NULL, emailed_at = clock_timestamp()
               FROM ended e
               JOIN digest_items i ON i.digest_delivery_id = e.id
               JOIN email_messages m ON m.id = i.item_id
               WHERE e.kind = 'EMAIL' AND e.outcome = 'SENT' AND n.id = m.notification_id AND n.email_message_id = m.id
           )
           SELECT count(*) AS "count!" FROM ended"#,
        deliveries as _,
        limit,
    )
    .fetch_one(pool)
    .await?;
    Ok(settled)
}
