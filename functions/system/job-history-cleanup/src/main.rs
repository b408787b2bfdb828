//! Forgets runs that are over, and gives up messages that no queue took, when their job's retention has passed
//! ([`jobs::History`], declared in the catalog).

use std::process::ExitCode;

use jobs::{History, Spec, Sweep, Timestamp, catalog};
use runtime::{Failure, Outcome, Run, Sweeper, Swept, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    /// Runs that were done, skipped or continued.
    completed: i64,
    /// Runs that were dead, or that nobody ever finished.
    failed: i64,
    /// Messages of the outbox.
    undeliverable: i64,
    /// Exclusive leases that ended.
    leases: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::JOB_HISTORY_CLEANUP, clean)
}

async fn clean(message: Sweep, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message, 5000).await?;
    let as_of = sweep.as_of();
    for job in jobs_in_the_ledger(run).await? {
        let history = catalog::find(&job).map_or_else(History::default, |spec| spec.history);
        let (completed, failed) = (as_of - history.completed, as_of - history.failed);
        sweep
            .step(&job, async |page| {
                // A run that is still open keeps its row for as long as a failed one: its message may come back from a DLQ.
                let swept = sqlx::query!(
                    r#"WITH old AS MATERIALIZED (
                           SELECT ctid, started_at, run_key FROM job_runs
                           WHERE job = $1 AND started_at < greatest($2::timestamptz, $3::timestamptz) AND (started_at, run_key) > ($4, $5)
                             AND coalesce(finished_at, lease_until, started_at)
                                 < CASE WHEN status IN ('done', 'skipped', 'continued') THEN $2 ELSE $3 END
                           ORDER BY started_at, run_key LIMIT $6 FOR UPDATE SKIP LOCKED
                       ), gone AS (
                           DELETE FROM job_runs WHERE ctid = ANY (ARRAY(SELECT ctid FROM old))
                           RETURNING status IN ('done', 'skipped', 'continued') AS completed
                       )
                       SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM gone) AS "gone!",
                              (SELECT count(*) FROM gone WHERE completed) AS "completed!", started_at AS at, run_key AS id
                       FROM old ORDER BY started_at DESC, run_key DESC LIMIT 1"#,
                    job,
                    completed,
                    failed,
                    page.after.at,
                    page.after.id,
                    page.limit,
                )
                .fetch_optional(&mut *page.tx)
                .await?;
                let Some(swept) = swept else { return Ok(Swept::default()) };
                page.report.completed += swept.completed;
                page.report.failed += swept.gone - swept.completed;
                Ok(Swept {
                    found: swept.found,
                    gone: swept.gone,
                    at: swept.at,
                    id: swept.id,
                })
            })
            .await;
    }
    let (queues, before) = outbox_retention(as_of);
    sweep
        .step("#outbox", async |page| {
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH old AS MATERIALIZED (
                       SELECT o.ctid, o.created_at AS at, o.id::text AS id FROM outbox o
                       LEFT JOIN unnest($1::text[], $2::timestamptz[]) AS k (queue, before) USING (queue)
                       WHERE o.created_at < coalesce(k.before, $3::timestamptz) AND (o.created_at, o.id::text) > ($4, $5)
                       ORDER BY o.created_at, o.id::text LIMIT $6 FOR UPDATE OF o SKIP LOCKED
                   ), gone AS (
                       DELETE FROM outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING 1
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM gone) AS "gone!", at AS "at!", id AS "id!"
                   FROM old ORDER BY at DESC, id DESC LIMIT 1"#,
                &queues,
                &before,
                as_of - History::default().failed,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            if swept.gone > 0 {
                tracing::error!(messages = swept.gone, "messages are given up that no queue took in all their retention");
            }
            page.report.undeliverable += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("#leases", async |page| {
            let swept = delete_page!(
                page,
                "exclusive_leases",
                "lease_until",
                "key",
                "lease_until < $1 - interval '1 day'"
            )?;
            page.report.leases += swept.gone;
            Ok(swept)
        })
        .await;
    sweep.finish()
}

/// Each name once, by one index lookup a name; jobs that the catalog has no more among them.
async fn jobs_in_the_ledger(run: &Run) -> Result<Vec<String>, Failure> {
    let names = sqlx::query_scalar!(
        r#"WITH RECURSIVE names AS (
               (SELECT job FROM job_runs ORDER BY job LIMIT 1)
               UNION ALL
               SELECT (SELECT r.job FROM job_runs r WHERE r.job > names.job ORDER BY r.job LIMIT 1) FROM names WHERE names.job IS NOT NULL
           )
           SELECT job AS "job!" FROM names WHERE job IS NOT NULL"#,
    )
    .fetch_all(run.context().database().pool())
    .await?;
    Ok(names)
}

/// Until when messages to each queue may wait: as long as the receiving job's failed runs. Dead letters, too.
fn outbox_retention(as_of: Timestamp) -> (Vec<String>, Vec<Timestamp>) {
    let both = |spec: &&Spec| {
        let before = as_of - spec.history.failed;
        [
            spec.name().to_owned(),
            format!("{}{}", spec.name(), services::DEAD_LETTER_SUFFIX),
        ]
        .map(|queue| (queue, before))
    };
    catalog::ALL.iter().flat_map(both).unzip()
}
