//! Scans that never came to an end, and steps that never began: their messages are sent again.
//!
//! A scan is sent again three times, two hours apart; then the upload is given up, if the scanner was at work meanwhile. While it is not
//! (an outage, a deployment that failed), the upload is not to blame, and goes on being sent: given up, it would be purged in a week.

use jobs::{ConvertAsset, Id, PreviewAsset, ProcessAsset, ScanAsset, ScanReason, catalog};
use runtime::{Page, Swept};
use serde_json::Value;
use services::Error;

use crate::Report;

/// Sends uploads to the scanner again, or gives them up.
pub(crate) async fn scans(page: &mut Page<'_, Report>) -> Result<Swept, Error> {
    let rows = sqlx::query!(
        r#"WITH stuck AS MATERIALIZED (
               SELECT id, coalesce(scan_requeued_at, upload_confirmed_at) AS at, scan_requeue_count AS requeued FROM ip_assets
               WHERE status = 'PROCESSING' AND scan_status IN ('PENDING', 'SCANNING') AND deleted_at IS NULL
                 AND (scan_status = 'PENDING' OR scan_lease_until IS NULL OR scan_lease_until < $1::timestamptz)
                 AND coalesce(scan_requeued_at, upload_confirmed_at) < $1 - interval '2 hours'
                 AND (coalesce(scan_requeued_at, upload_confirmed_at), id) > ($2, $3)
               ORDER BY coalesce(scan_requeued_at, upload_confirmed_at), id LIMIT $4 FOR UPDATE SKIP LOCKED
           ), judged AS MATERIALIZED (
               SELECT s.id, s.at, s.requeued >= 3 AND EXISTS (
                   SELECT FROM job_runs r WHERE r.job = $5 AND r.started_at > s.at AND r.status = 'done') AS hopeless
               FROM stuck s
           ), given_up AS (
               UPDATE ip_assets a
               SET status = 'REJECTED', scan_status = 'ERROR', rejection_reason = 'SCAN_ERROR', rejected_at = $1, updated_at = now(),
                   scan_lease_until = NULL, scan_lease_token = NULL
               FROM judged j WHERE a.id = j.id AND j.hopeless
           ), requeued AS (
               UPDATE ip_assets a SET scan_requeue_count = least(a.scan_requeue_count + 1, 3), scan_requeued_at = $1
               FROM judged j WHERE a.id = j.id AND NOT j.hopeless
           )
           SELECT id AS "id!", at AS "at!", hopeless AS "hopeless!" FROM judged ORDER BY at, id"#,
        page.as_of,
        page.after.at,
        page.after.id,
        page.limit,
        catalog::ASSET_VIRUS_SCAN.spec().name(),
    )
    .fetch_all(&mut *page.tx)
    .await?;
    let mut messages = Vec::new();
    for row in &rows {
        if row.hopeless {
            page.report.stuck_given_up += 1;
        } else if let Some(asset_id) = id(&row.id, page) {
            messages.push(ScanAsset {
                asset_id,
                reason: ScanReason::Stuck,
                request_id: None,
            });
        }
    }
    page.report.stuck_requeued += messages.len() as i64;
    page.tx.enqueue(&catalog::ASSET_VIRUS_SCAN, &messages).await?;
    let last = rows.last().map(|row| (row.at, row.id.clone()));
    Ok(Swept::all(rows.len(), last))
}

/// Sends the messages of steps again that wait for one, or whose last run died: those that need nothing but the asset, and have a queue.
pub(crate) async fn steps(page: &mut Page<'_, Report>) -> Result<Swept, Error> {
    let rows = sqlx::query!(
        r#"WITH stuck AS MATERIALIZED (
               SELECT s.asset_id, s.step, s.variant, coalesce(s.enqueued_at, '1970-01-01T00:00:00Z') AS at,
                      s.asset_id || '/' || s.step || '/' || s.variant AS id
               FROM asset_processing_steps s JOIN ip_assets a ON a.id = s.asset_id
               WHERE s.status IN ('PENDING', 'RUNNING') AND s.resend_count < 3
                 AND (s.status = 'PENDING' OR s.lease_until < $1::timestamptz - interval '2 hours')
                 AND s.step IN ('thumbnail', 'metadata', 'preview', 'format_conversion')
                 AND a.scan_status = 'CLEAN' AND a.status <> 'REJECTED' AND a.deleted_at IS NULL
                 AND coalesce(s.enqueued_at, '1970-01-01T00:00:00Z') < $1::timestamptz - interval '2 hours'
                 AND (coalesce(s.enqueued_at, '1970-01-01T00:00:00Z'), s.asset_id || '/' || s.step || '/' || s.variant) > ($2, $3)
               ORDER BY coalesce(s.enqueued_at, '1970-01-01T00:00:00Z'), s.asset_id || '/' || s.step || '/' || s.variant
               LIMIT $4 FOR UPDATE OF s SKIP LOCKED
           ), resent AS (
               UPDATE asset_processing_steps s SET enqueued_at = $1, resend_count = s.resend_count + 1
               FROM stuck t WHERE s.asset_id = t.asset_id AND s.step = t.step AND s.variant = t.variant
           )
           SELECT asset_id AS "asset_id!", step AS "step!", variant AS "variant!", at AS "at!", id AS "id!" FROM stuck ORDER BY at, id"#,
        page.as_of,
        page.after.at,
        page.after.id,
        page.limit,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    let (mut thumbnails, mut metadata, mut previews, mut conversions) = (vec![], vec![], vec![], vec![]);
    for row in &rows {
        let Some(asset_id) = id(&row.asset_id, page) else {
            continue;
        };
        let process = |asset_id| ProcessAsset {
            asset_id,
            force: false,
            request_id: None,
        };
        match row.step.as_str() {
            "thumbnail" => thumbnails.push(process(asset_id)),
            "metadata" => metadata.push(process(asset_id)),
            "preview" => previews.push(PreviewAsset::Single(process(asset_id))),
            // What is missing, and only that.
            _ => match serde_json::from_value(Value::from(row.variant.as_str())) {
                Ok(variant) => conversions.push(ConvertAsset {
                    asset_id,
                    variant: Some(variant),
                    force: false,
                    request_id: None,
                }),
                Err(_) => {
                    tracing::warn!(
                        asset_id = row.asset_id,
                        "a conversion of no known variant is passed over"
                    );
                    page.report.errors += 1;
                }
            },
        }
    }
    page.report.steps_resent += (thumbnails.len() + metadata.len() + previews.len() + conversions.len()) as i64;
    page.tx
        .enqueue(&catalog::ASSET_THUMBNAIL_GENERATION, &thumbnails)
        .await?;
    page.tx.enqueue(&catalog::ASSET_METADATA_EXTRACTION, &metadata).await?;
    page.tx.enqueue(&catalog::ASSET_PREVIEW_GENERATION, &previews).await?;
    page.tx.enqueue(&catalog::ASSET_FORMAT_CONVERSION, &conversions).await?;
    let last = rows.last().map(|row| (row.at, row.id.clone()));
    Ok(Swept::all(rows.len(), last))
}

/// An id that a message can carry.
fn id(text: &str, page: &mut Page<'_, Report>) -> Option<Id> {
    let id = text.parse().ok();
    if id.is_none() {
        tracing::warn!(asset_id = text, "an asset whose id is none is passed over");
        page.report.errors += 1;
    }
    id
}
