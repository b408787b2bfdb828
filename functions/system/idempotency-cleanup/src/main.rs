//! Deletes the idempotency keys whose 24 hours are over (spec: platform, `idempotency-cleanup`).

use std::process::ExitCode;

use jobs::{Sweep, catalog};
use runtime::{Outcome, Run, Sweeper, Swept, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    deleted: i64,
    /// Expired, but a request holds the key: without it the same request would run twice.
    live_leases_kept: i64,
    /// Not expired, and held for longer than any request takes.
    stuck: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::IDEMPOTENCY_CLEANUP, clean)
}

async fn clean(message: Sweep, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message, 5000).await?;
    sweep
        .step("expired", async |page| {
            let swept = delete_page!(
                page,
                "idempotency_keys",
                "expires_at",
                "id",
                "expires_at < $1 AND (processed OR processing_at IS NULL OR processing_at <= $1 - interval '5 minutes')"
            )?;
            page.report.deleted += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("held", async |page| {
            let held = sqlx::query!(
                r#"SELECT count(*) FILTER (WHERE expires_at < $1 AND processing_at > $1::timestamptz - interval '5 minutes') AS "live!",
                          count(*) FILTER (WHERE expires_at >= $1 AND processing_at <= $1 - interval '5 minutes') AS "stuck!"
                   FROM idempotency_keys WHERE NOT processed AND processing_at IS NOT NULL"#,
                page.as_of,
            )
            .fetch_one(&mut *page.tx)
            .await?;
            (page.report.live_leases_kept, page.report.stuck) = (held.live, held.stuck);
            Ok(Swept::default())
        })
        .await;
    sweep.finish()
}
