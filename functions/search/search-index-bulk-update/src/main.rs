//! Puts many rows right in the search index: a list, or all of a brand, an asset or a project (spec: business, `search-index-update`).
//!
//! Licences and projects carry a brand's name. A message about the one asks for the other, if it is wrong too; that one then finds
//! nothing left to ask for.

mod filter;

use std::process::ExitCode;

use jobs::{BulkUpdateSearchIndex, Id, SearchEntity, SearchFilter, catalog};
use runtime::{Failure, Outcome, Run, continued, done};
use search::Fate;
use serde::Serialize;

/// Rows of one statement.
const CHUNK: usize = 50;

/// What a run did, in rows.
#[derive(Debug, Default, Serialize)]
struct Report {
    processed: usize,
    changed: usize,
    cleared: usize,
    gone: usize,
    failed: Vec<String>,
}

fn main() -> ExitCode {
    runtime::serve(catalog::SEARCH_INDEX_BULK_UPDATE, update)
}

async fn update(message: BulkUpdateSearchIndex, run: &mut Run) -> Outcome {
    let mut report = Report::default();
    let rest = match &message.filter {
        Some(filter) => update_filtered(&message, filter, run, &mut report).await?,
        None => update_listed(&message, run, &mut report).await?,
    };
    match rest {
        Some(rest) => {
            run.progress(&report).await?;
            continued(rest)
        }
        None => done(report),
    }
}

/// Answers with the message for the rest, when the time is up.
async fn update_listed(
    message: &BulkUpdateSearchIndex,
    run: &Run,
    report: &mut Report,
) -> Result<Option<BulkUpdateSearchIndex>, Failure> {
    let mut ids = message.entity_ids.clone();
    ids.sort_unstable();
    ids.dedup();
    for (n, chunk) in ids.chunks(CHUNK).enumerate() {
        if n > 0 && run.must_stop() {
            let entity_ids = ids[n * CHUNK..].to_vec();
            return Ok(Some(BulkUpdateSearchIndex {
                entity_ids,
                ..message.clone()
            }));
        }
        refresh(
            message.entity_type,
            chunk.iter().map(Id::to_string).collect(),
            run,
            report,
        )
        .await?;
    }
    Ok(None)
}

/// Answers with the message for the rest, when the time is up.
async fn update_filtered(
    message: &BulkUpdateSearchIndex,
    filter: &SearchFilter,
    run: &Run,
    report: &mut Report,
) -> Result<Option<BulkUpdateSearchIndex>, Failure> {
    let pool = run.context().database().pool();
    let mut after = message.cursor.as_ref().map(Id::to_string).unwrap_or_default();
    loop {
        let ids = filter::page(pool, message.entity_type, filter, &after, CHUNK as i64).await?;
        let Some(last) = ids.last().cloned() else { break };
        refresh(message.entity_type, ids, run, report).await?;
        after = last;
        if run.must_stop() {
            let cursor = after.parse().ok();
            return Ok(Some(BulkUpdateSearchIndex {
                cursor,
                ..message.clone()
            }));
        }
    }
    if let SearchFilter::BrandId(brand) = filter {
        let other = match message.entity_type {
            SearchEntity::License => SearchEntity::Project,
            _ => SearchEntity::License,
        };
        if filter::any_of_brand_is_stale(pool, other, brand).await? {
            let follow_up = BulkUpdateSearchIndex {
                entity_type: other,
                cursor: None,
                ..message.clone()
            };
            enqueue(run, &[follow_up]).await?;
        }
    }
    Ok(None)
}

async fn refresh(entity: SearchEntity, ids: Vec<String>, run: &Run, report: &mut Report) -> Result<(), Failure> {
    let refreshed = search::refresh_each(run.context().database().pool(), entity, &ids).await?;
    enqueue(run, &refreshed.follow_ups()).await?;
    report.processed += ids.len();
    report.changed += refreshed.count(Fate::Changed);
    report.cleared += refreshed.count(Fate::Cleared);
    report.gone += ids.len() - refreshed.found() - refreshed.failed.len();
    report.failed.extend(refreshed.failed);
    Ok(())
}

async fn enqueue(run: &Run, messages: &[BulkUpdateSearchIndex]) -> Result<(), Failure> {
    if !messages.is_empty() {
        let mut tx = run.begin().await?;
        tx.enqueue(&catalog::SEARCH_INDEX_BULK_UPDATE, messages).await?;
        tx.commit().await?;
    }
    Ok(())
}
