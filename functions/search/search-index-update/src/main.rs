//! Keeps the search index right as rows change (spec: business, `search-index-update`).
//!
//! A batch is one statement, whatever tables its rows are of; with follow-ups it is five. What `operation` says is ignored: the row decides.

use std::process::ExitCode;

use jobs::{UpdateSearchIndex, catalog};
use runtime::{Context, Delivery, Failure, Outcome, done, skipped};
use search::{Fate, Refreshed, Rows};
use serde_json::json;

fn main() -> ExitCode {
    runtime::serve_batch(catalog::SEARCH_INDEX_UPDATE, update)
}

async fn update(deliveries: &[Delivery<UpdateSearchIndex>], context: &Context) -> Result<Vec<Outcome>, Failure> {
    let mut rows = Rows::default();
    for Delivery { message, .. } in deliveries {
        rows.push(message.entity_type, &message.entity_id);
    }
    let refreshed = search::refresh(context.database().pool(), &rows).await?;
    // Licences are stale until somebody looks at them: a crash before this commit loses nothing, the next attempt finds them again.
    if let (Some(first), false) = (deliveries.first(), refreshed.stale_licenses.is_empty()) {
        let mut tx = first.run.begin().await?;
        tx.enqueue(&catalog::SEARCH_INDEX_BULK_UPDATE, &refreshed.follow_ups())
            .await?;
        tx.commit().await?;
    }
    Ok(deliveries
        .iter()
        .map(|delivery| outcome(&refreshed, &delivery.message))
        .collect())
}

fn outcome(refreshed: &Refreshed, message: &UpdateSearchIndex) -> Outcome {
    match refreshed.fate(message.entity_type, message.entity_id.as_str()) {
        None => skipped("gone"),
        Some(fate) => done(json!({"changed": fate != Fate::Right})),
    }
}
