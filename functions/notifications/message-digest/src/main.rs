//! Sends each user one e-mail a day or week with the unread messages, by conversation (spec: comms, `message-digest`).
//!
//! What the digests share, and with it the invariants, is in the crate `digests`. Nothing else mails a message of these users, so
//! messages are not locked: should two digests of one user meet, the key of `digest_items` decides.

use std::process::ExitCode;

use digests::{Claim, Digest, Kind, Page};
use futures::future::{FutureExt, LocalBoxFuture};
use jobs::catalog;
use runtime::Run;
use services::mail::Category;
use sqlx::PgPool;

const DIGEST: Digest = Digest {
    job: &catalog::MESSAGE_DIGEST,
    kind: Kind::Message,
    template: "message-digest",
    category: Category::Messages,
    claim,
};

fn main() -> ExitCode {
    runtime::serve(catalog::MESSAGE_DIGEST, async |message, run: &mut Run| {
        digests::send(&DIGEST, message, run).await
    })
}

/// Ten conversations are shown, five names of each, and two hundred characters of its latest message; the rest is counted.
fn claim<'a>(pool: &'a PgPool, page: &'a Page) -> LocalBoxFuture<'a, sqlx::Result<Vec<Claim>>> {
    digests::claim!(
        pool,
        page,
        items: r#"
            SELECT m.id AS item_id, m.recipient_id AS user_id, g.delivery_id, g.show_message_preview, m.thread_id, m.body, m.created_at,
                   coalesce(nullif(btrim(t.subject), ''), 'Conversation') AS subject,
                   CASE WHEN s.id IS NULL OR s.deleted_at IS NOT NULL THEN 'Deleted user' ELSE coalesce(nullif(btrim(s.name), ''), 'Somebody') END AS sender
            FROM page g
            JOIN messages m ON m.recipient_id = g.user_id
            JOIN message_threads t ON t.id = m.thread_id
            LEFT JOIN users s ON s.id = m.sender_id
            WHERE m.read_at IS NULL AND m.deleted_at IS NULL AND t.deleted_at IS NULL AND m.created_at > g.window_start AND m.created_at <= $6
              AND NOT EXISTS (SELECT FROM message_thread_mutes x WHERE x.user_id = m.recipient_id AND x.thread_id = m.thread_id)
              AND NOT EXISTS (SELECT FROM digest_items x WHERE x.kind = $1 AND x.item_id = m.id AND x.user_id = m.recipient_id)"#,
        contents: r#"
            SELECT t.user_id, sum(t.messages)::int AS item_count,
                   json_build_object('total_unread_count', sum(t.messages), 'more_threads', greatest(count(*) - 10, 0), 'inbox_url', '/messages',
                       'threads', json_agg(json_build_object('thread_id', t.thread_id, 'thread_subject', t.subject, 'message_count', t.messages,
                           'senders', t.senders[1:5], 'latest_message', t.latest[1], 'thread_url', '/messages/' || t.thread_id) ORDER BY t.place)
                           FILTER (WHERE t.place <= 10)) AS variables
            FROM (SELECT r.user_id, r.thread_id, r.subject, count(*) AS messages,
                         array_agg(r.sender ORDER BY r.created_at, r.item_id) FILTER (WHERE r.nth_of_sender = 1) AS senders,
                         array_agg(json_build_object('sender_name', r.sender, 'created_at', r.created_at,
                             'body', CASE WHEN NOT r.show_message_preview THEN NULL WHEN char_length(r.line) > 200 THEN left(r.line, 200) || '…' ELSE r.line END))
                             FILTER (WHERE r.nth_of_thread = 1) AS latest,
                         row_number() OVER (PARTITION BY r.user_id ORDER BY max(r.created_at) DESC, r.thread_id) AS place
                  FROM (SELECT i.*, btrim(regexp_replace(left(i.body, 1000), '\s+', ' ', 'g')) AS line,
                               row_number() OVER (PARTITION BY i.user_id, i.thread_id, i.sender ORDER BY i.created_at, i.item_id) AS nth_of_sender,
                               row_number() OVER (PARTITION BY i.user_id, i.thread_id ORDER BY i.created_at DESC, i.item_id DESC) AS nth_of_thread
                        FROM items i) r
                  GROUP BY r.user_id, r.thread_id, r.subject) t
            GROUP BY t.user_id"#,
        taken: "SELECT FROM items i WHERE false",
    )
    .boxed_local()
}
