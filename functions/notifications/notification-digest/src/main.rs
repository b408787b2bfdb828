//! Sends each user one e-mail a day or week with the unread notifications that no e-mail carried (spec: comms, `notification-digest`).
//!
//! What the digests share, and with it the invariants, is in the crate `digests`. Here is what a notification is to a digest:
//!
//! * LOW and MEDIUM that nothing has mailed, unread and not of a conversation; HIGH and URGENT only when their own mail failed for
//!   good, and then not when that mail may have arrived.
//! * They are locked while the page is written, so that `notification-delivery` cannot mail one of them at the same time.

use std::process::ExitCode;

use digests::{Claim, Digest, Kind, Page};
use futures::future::{FutureExt, LocalBoxFuture};
use jobs::catalog;
use runtime::Run;
use services::mail::Category;
use sqlx::PgPool;

const DIGEST: Digest = Digest {
    job: &catalog::NOTIFICATION_DIGEST,
    kind: Kind::Notification,
    template: "notification-digest",
    category: Category::Digest,
    claim,
};

fn main() -> ExitCode {
    runtime::serve(catalog::NOTIFICATION_DIGEST, async |message, run: &mut Run| {
        digests::send(&DIGEST, message, run).await
    })
}

/// Ten lines a section and fifty in all are shown; the rest is counted.
fn claim<'a>(pool: &'a PgPool, page: &'a Page) -> LocalBoxFuture<'a, sqlx::Result<Vec<Claim>>> {
    digests::claim!(
        pool,
        page,
        items: r#"
            SELECT n.id AS item_id, n.user_id, g.delivery_id, n.type, n.title, n.action_url, n.created_at,
                   CASE WHEN char_length(n.message) > 200 THEN left(n.message, 200) || '…' ELSE n.message END AS message
            FROM page g
            JOIN notifications n ON n.user_id = g.user_id
            LEFT JOIN notification_channel_preferences c ON c.user_id = n.user_id AND c.notification_type = n.type AND c.channel = 'EMAIL'
            WHERE n.read = false AND n.email_state IN ('PENDING', 'DIGEST', 'FAILED') AND n.created_at > g.window_start AND n.created_at <= $6
              AND n.type <> 'MESSAGE' AND n.email_policy <> 'NONE' AND coalesce(c.enabled, true)
              AND CASE WHEN n.priority IN ('LOW', 'MEDIUM') THEN n.email_state <> 'FAILED'
                       ELSE n.email_state = 'FAILED' AND n.email_state_reason IS DISTINCT FROM 'unconfirmed' END
              AND CASE n.type WHEN 'LICENSE' THEN 'license_expiry' WHEN 'PAYOUT' THEN 'payouts' WHEN 'ROYALTY' THEN 'royalty_statements'
                       WHEN 'PROJECT' THEN 'project_invitations'
                       WHEN 'SYSTEM' THEN CASE WHEN n.metadata ->> 'category' IN ('SECURITY', 'OPERATIONS') THEN 'system' ELSE 'announcements' END
                       ELSE 'blog' END <> ALL (g.categories_off)
              AND NOT EXISTS (SELECT FROM digest_items x WHERE x.kind = $1 AND x.item_id = n.id AND x.user_id = n.user_id)
            ORDER BY n.id
            FOR UPDATE OF n"#,
        contents: r#"
            SELECT t.user_id, sum(t.total)::int AS item_count,
                   json_build_object('total_count', sum(t.total), 'notifications_url', '/notifications',
                       'sections', json_agg(json_build_object('type', t.type, 'label', t.label, 'count', t.total, 'more_count', t.total - t.shown,
                                                                'items', t.lines[:t.shown]) ORDER BY t.place)) AS variables
            FROM (SELECT s.*, least(s.total, 10, greatest(50 - coalesce(sum(least(s.total, 10)) OVER (PARTITION BY s.user_id ORDER BY s.place
                                                                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0), 0))::int AS shown
                  FROM (SELECT i.user_id, i.type, s.label, s.place, count(*)::int AS total,
                               array_agg(to_json(l) ORDER BY i.created_at DESC, i.item_id) AS lines
                        FROM items i
                        JOIN (VALUES ('PAYOUT', 1, 'Payouts'), ('ROYALTY', 2, 'Royalties'), ('LICENSE', 3, 'Licenses'), ('PROJECT', 4, 'Projects'),
                                     ('SYSTEM', 5, 'Announcements'), ('POST_ASSIGNED', 6, 'Posts assigned to you'),
                                     ('POST_STATUS_CHANGED', 7, 'Your posts'), ('BLOG', 8, 'Blog')) AS s (type, place, label) ON s.type = i.type
                        CROSS JOIN LATERAL (SELECT i.title, i.message, i.action_url, i.created_at) AS l
                        GROUP BY i.user_id, i.type, s.label, s.place) s) t
            GROUP BY t.user_id"#,
        taken: r#"
            UPDATE notifications n SET email_state = 'DIGESTED', email_state_reason = NULL
            FROM items i WHERE n.id = i.item_id"#,
    )
    .boxed_local()
}
