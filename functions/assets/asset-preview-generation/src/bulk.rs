//! All assets whose preview follows other rules than today's, or that have none.

use std::time::Duration;

use jobs::{ClipType, Id, PreviewAsset, ProcessAsset, RegeneratePreviews, catalog};
use runtime::{Failure, Outcome, Run, continued, done, skipped};
use serde_json::json;

use crate::VERSION;

/// Assets of a page, unless told.
const PAGE: u32 = 100;
/// How long a deployment takes, at most.
const DEPLOYMENT: Duration = Duration::from_secs(10 * 60);

/// Sends the messages of one page.
pub(crate) async fn send(message: &RegeneratePreviews, run: &Run) -> Outcome {
    if message.spec_version < VERSION {
        return skipped("STALE_SPEC");
    }
    if message.spec_version > VERSION {
        return Err(Failure::Retry {
            error: format!("previews follow version {VERSION} here: newer code is not deployed yet"),
            after: Some(DEPLOYMENT),
        });
    }
    let page = message.page_size.unwrap_or(PAGE);
    let types: &[&str] = match message.asset_type {
        Some(ClipType::Video) => &["VIDEO"],
        Some(ClipType::Audio) => &["AUDIO"],
        None => &["VIDEO", "AUDIO"],
    };
    let types: Vec<String> = types.iter().copied().map(str::to_owned).collect();
    let mut tx = run.begin().await?;
    let ids = sqlx::query_scalar!(
        "SELECT a.id FROM ip_assets a
         WHERE a.type IN ('VIDEO', 'AUDIO') AND a.scan_status = 'CLEAN' AND a.deleted_at IS NULL AND a.status <> 'REJECTED'
           AND a.type = ANY ($1) AND a.id > $2 AND a.processing_config->'preview' IS DISTINCT FROM 'false'
           AND NOT EXISTS (SELECT FROM asset_variants v
                           WHERE v.asset_id = a.id AND v.kind = 'preview' AND v.superseded_at IS NULL AND v.params_version >= $3)
         ORDER BY a.id LIMIT $4",
        &types,
        message.cursor.as_ref().map_or("", |id| id.as_str()),
        i32::try_from(VERSION).unwrap_or(i32::MAX),
        i64::from(page),
    )
    .fetch_all(&mut *tx)
    .await?;
    // A message that comes twice asks for the same again, and that is done once.
    let requests = ids.iter().filter_map(|id| {
        // Requests are told apart for each asset, so the end of a long id may be missing.
        let request: String = format!("bulk-{VERSION}-{id}").chars().take(Id::MAX_LENGTH).collect();
        Some(PreviewAsset::Single(ProcessAsset {
            asset_id: id.parse().ok()?,
            force: true,
            request_id: Some(request.parse().ok()?),
        }))
    });
    let requests: Vec<_> = requests.collect();
    let passed_over = ids.len() - requests.len();
    if passed_over > 0 {
        tracing::warn!(passed_over, "assets whose ids no message can carry");
    }
    tx.enqueue(&catalog::ASSET_PREVIEW_GENERATION, &requests).await?;
    tx.commit().await?;
    // From the last one that a message can carry: what comes after it is passed over again.
    let cursor = requests.last().and_then(|request| match request {
        PreviewAsset::Single(request) => Some(request.asset_id.clone()),
        PreviewAsset::Bulk(_) => None,
    });
    match cursor.filter(|_| ids.len() == page as usize) {
        Some(cursor) => continued(PreviewAsset::Bulk(RegeneratePreviews {
            cursor: Some(cursor),
            ..message.clone()
        })),
        None => done(json!({"sent": requests.len(), "passedOver": passed_over})),
    }
}
