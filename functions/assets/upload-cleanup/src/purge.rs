//! Uploads that no scan could accept, a week later, and infected files, a month later.

use assets::{Decision, Destroyed, Subject};
use runtime::{Page, Swept};
use services::{Error, Storage};

use crate::Report;

/// One of the two sweeps.
pub(crate) struct Purge<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) subject: Subject,
    pub(crate) is_dry_run: bool,
}

/// What became of a page.
pub(crate) struct Purged {
    destroyed: Vec<Destroyed>,
    blocked: i64,
}

impl Purge<'_> {
    /// Takes a page, and condemns what is not blocked. What was condemned before and is still there is taken again; after five failures
    /// once a day.
    pub(crate) async fn claim(&self, page: &mut Page<'_, Report>) -> Result<(Swept, Decision), Error> {
        let (swept, ids) = match self.subject {
            Subject::Asset => failed(page).await?,
            Subject::InfectedFile => infected(page).await?,
        };
        let decision = assets::condemn(&mut page.tx, self.subject, &ids, page.as_of).await?;
        Ok((swept, decision))
    }

    pub(crate) async fn destroy(&self, decision: Decision) -> Result<Purged, Error> {
        Ok(Purged {
            destroyed: assets::destroy(self.storage, &decision.condemned, self.is_dry_run).await?,
            blocked: decision.blocked,
        })
    }

    pub(crate) async fn settle(&self, page: &mut Page<'_, Report>, purged: Purged) -> Result<(), Error> {
        let Purged { destroyed, blocked } = purged;
        let settled = assets::settle(&mut page.tx, self.subject, &destroyed, page.as_of).await?;
        let report = &mut page.report;
        let cleaned = match self.subject {
            Subject::Asset => &mut report.failed_cleaned,
            Subject::InfectedFile => &mut report.infected_cleaned,
        };
        *cleaned += settled.removed + settled.tombstones;
        report.blocked += blocked;
        report.storage_freed += destroyed.iter().map(|asset| asset.bytes).sum::<i64>();
        report.errors += destroyed.iter().map(Destroyed::errors).sum::<i64>();
        Ok(())
    }
}

/// Uploads that were rejected because of what they are. People's rejections, and those for quality, are not ours.
async fn failed(page: &mut Page<'_, Report>) -> Result<(Swept, Vec<String>), Error> {
    let rows = sqlx::query!(
        r#"SELECT id, rejected_at AS "at!" FROM ip_assets
           WHERE status = 'REJECTED' AND purged_at IS NULL
             AND rejection_reason IN ('SCAN_ERROR', 'UNSCANNABLE', 'TYPE_MISMATCH', 'TOO_LARGE', 'EMPTY_FILE', 'OBJECT_MISSING')
             AND (deleted_at IS NULL OR purge_started_at IS NOT NULL)
             AND rejected_at < $1::timestamptz - interval '7 days' AND (rejected_at, id) > ($2, $3)
             AND (purge_failed_count < 5 OR purge_failed_at < $1 - interval '24 hours')
           ORDER BY rejected_at, id LIMIT $4 FOR UPDATE SKIP LOCKED"#,
        page.as_of,
        page.after.at,
        page.after.id,
        page.limit,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    Ok(taken(rows.into_iter().map(|row| (row.at, row.id)).collect()))
}

/// Files in quarantine, whatever became of the asset since.
async fn infected(page: &mut Page<'_, Report>) -> Result<(Swept, Vec<String>), Error> {
    let rows = sqlx::query!(
        r#"SELECT id, quarantined_at AS "at!" FROM ip_assets
           WHERE scan_status = 'INFECTED' AND purged_at IS NULL
             AND quarantined_at < $1::timestamptz - interval '30 days' AND (quarantined_at, id) > ($2, $3)
             AND (purge_failed_count < 5 OR purge_failed_at < $1 - interval '24 hours')
           ORDER BY quarantined_at, id LIMIT $4 FOR UPDATE SKIP LOCKED"#,
        page.as_of,
        page.after.at,
        page.after.id,
        page.limit,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    Ok(taken(rows.into_iter().map(|row| (row.at, row.id)).collect()))
}

fn taken(rows: Vec<(jobs::Timestamp, String)>) -> (Swept, Vec<String>) {
    let swept = Swept::all(rows.len(), rows.last().cloned());
    (swept, rows.into_iter().map(|(_, id)| id).collect())
}
