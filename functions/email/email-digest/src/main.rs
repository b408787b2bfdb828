//! Sends the e-mails that were held for a user as one e-mail a day or week (spec: comms, `email-digest`).
//!
//! What the digests share, and with it the invariants, is in the crate `digests`. A held mail leaves `HELD` by a conditional update:
//! into a digest, on its own because the user wants no digests any more, or for good.

mod held;

use std::process::ExitCode;

use digests::{Claim, Digest, Kind, Page};
use futures::future::{FutureExt, LocalBoxFuture};
use jobs::{SendDigests, catalog};
use runtime::{Outcome, Run};
use services::mail::Category;
use sqlx::PgPool;

const DIGEST: Digest = Digest {
    job: &catalog::EMAIL_DIGEST,
    kind: Kind::Email,
    template: "email-digest",
    category: Category::Digest,
    claim,
};

fn main() -> ExitCode {
    runtime::serve(catalog::EMAIL_DIGEST, async |message, run: &mut Run| {
        send(message, run).await
    })
}

async fn send(message: SendDigests, run: &Run) -> Outcome {
    if message.cursor.is_none() {
        held::let_go(run.context().database().pool(), run.as_of()).await?;
    }
    digests::send(&DIGEST, message, run).await
}

fn claim<'a>(pool: &'a PgPool, page: &'a Page) -> LocalBoxFuture<'a, sqlx::Result<Vec<Claim>>> {
    write(pool, page).boxed_local()
}

/// Ten lines a section and forty in all are shown; the rest is counted. Of mails that lead to one place, the newest is a line.
async fn write(pool: &PgPool, page: &Page) -> sqlx::Result<Vec<Claim>> {
    let lines = held::briefs(pool, &page.user_ids, page.at).await?;
    digests::claim!(
        pool,
        page,
        items: r#"
            SELECT m.id AS item_id, m.user_id, g.delivery_id, m.category, m.template, m.created_at, l.title, l.summary, l.url
            FROM page g
            JOIN email_messages m ON m.user_id = g.user_id
            LEFT JOIN unnest($10::text[], $11::text[], $12::text[], $13::text[]) AS l (id, title, summary, url) ON l.id = m.id
            WHERE m.status = 'HELD' AND m.created_at <= $6 AND m.expires_at > $6 AND m.category <> ALL (g.categories_off)
              AND NOT EXISTS (SELECT FROM digest_items x WHERE x.kind = $1 AND x.item_id = m.id AND x.user_id = m.user_id)
            ORDER BY m.id
            FOR UPDATE OF m"#,
        contents: r#"
            SELECT t.user_id, sum(t.mails)::int AS item_count,
                   json_build_object('total_count', sum(t.total), 'sections', json_agg(json_build_object('category', t.category, 'label', t.label,
                       'more_count', t.total - t.shown, 'items', t.lines) ORDER BY t.place)) AS variables
            FROM (SELECT r.user_id, r.category, r.label, r.place, count(*) AS mails, count(*) FILTER (WHERE r.twin = 1) AS total,
                         count(*) FILTER (WHERE r.shown) AS shown,
                         coalesce(json_agg(json_build_object('title', r.title, 'summary', r.summary, 'url', r.url, 'created_at', r.created_at) ORDER BY r.rank)
                                      FILTER (WHERE r.shown), '[]') AS lines
                  FROM (SELECT r.*, r.twin = 1 AND r.title IS NOT NULL AND r.rank <= 10
                                    AND row_number() OVER (PARTITION BY r.user_id ORDER BY r.twin > 1 OR r.title IS NULL OR r.rank > 10, r.place, r.rank) <= 40 AS shown
                        FROM (SELECT r.*, row_number() OVER (PARTITION BY r.user_id, r.place ORDER BY r.twin > 1, r.title IS NULL, r.created_at DESC, r.item_id) AS rank
                              FROM (SELECT i.*, coalesce(s.place, 8) AS place, coalesce(s.label, 'More') AS label,
                                           CASE WHEN i.title IS NULL THEN 1
                                                ELSE row_number() OVER (PARTITION BY i.user_id, i.template, i.url ORDER BY i.created_at DESC, i.item_id) END AS twin
                                    FROM items i
                                    LEFT JOIN (VALUES ('royalty_statements', 1, 'Royalties'), ('payouts', 2, 'Payouts'), ('license_expiry', 3, 'Licenses'),
                                                      ('project_invitations', 4, 'Projects'), ('reports', 5, 'Reports'), ('blog', 6, 'Blog'),
                                                      ('announcements', 7, 'Announcements')) AS s (category, place, label) ON s.category = i.category) r) r) r
                  GROUP BY r.user_id, r.category, r.label, r.place) t
            GROUP BY t.user_id"#,
        taken: r#"
            UPDATE email_messages m SET status = 'DIGESTED', updated_at = clock_timestamp()
            FROM items i WHERE m.id = i.item_id"#,
        &lines.ids,
        &lines.titles,
        &lines.summaries,
        &lines.urls,
    )
    .await
}
