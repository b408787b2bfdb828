//! Uploads that nobody has confirmed within a day.

use assets::Condemned;
use runtime::{Page, Sweeper, Swept};
use services::{Error, Storage};

use crate::Report;

/// Rejects and deletes the rows. A draft that was confirmed once is a person's work, however old.
pub(crate) async fn reject(page: &mut Page<'_, Report>) -> Result<(Swept, Vec<Condemned>), Error> {
    let rows = sqlx::query!(
        r#"WITH abandoned AS MATERIALIZED (
               SELECT id, created_at, storage_key FROM ip_assets
               WHERE status = 'DRAFT' AND scan_status = 'PENDING' AND upload_confirmed_at IS NULL AND deleted_at IS NULL
                 AND created_at < $1::timestamptz - interval '24 hours' AND (created_at, id) > ($2, $3)
               ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
           ), rejected AS (
               UPDATE ip_assets a
               SET status = 'REJECTED', rejection_reason = 'ABANDONED', rejected_at = $1, deleted_at = $1, updated_at = now()
               FROM abandoned b WHERE a.id = b.id
           )
           SELECT id AS "id!", created_at AS "at!", storage_key AS "key!" FROM abandoned ORDER BY created_at, id"#,
        page.as_of,
        page.after.at,
        page.after.id,
        page.limit,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    let swept = Swept::all(rows.len(), rows.last().map(|row| (row.at, row.id.clone())));
    page.report.abandoned_cleaned += swept.gone;
    let uploads = rows.into_iter().map(|row| Condemned::upload(row.id, row.key));
    Ok((swept, uploads.collect()))
}

/// Deletes the objects of rows that are rejected by now.
pub(crate) async fn delete(
    sweep: &mut Sweeper<'_, Report>,
    storage: &Storage,
    uploads: &[Condemned],
) -> Result<(), Error> {
    let destroyed = assets::destroy(storage, uploads, sweep.is_dry_run()).await?;
    let report = sweep.report();
    report.storage_freed += destroyed.iter().map(|upload| upload.bytes).sum::<i64>();
    report.errors += destroyed.iter().map(|upload| upload.errors()).sum::<i64>();
    Ok(())
}
