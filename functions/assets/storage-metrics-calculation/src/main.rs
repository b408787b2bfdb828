//! One snapshot a day of what is stored for the platform, users, projects and brands (spec: assets,
//! `storage-metrics-calculation`).

use std::process::ExitCode;

use chrono::{Days, Utc};
use jobs::{MeasureStorage, Sweep, catalog};
use runtime::{Outcome, Run, Sweeper, Swept, dead, delete_page};
use serde::{Deserialize, Serialize};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    /// Rows of the snapshot.
    rows: i64,
    /// Rows of old snapshots that went.
    expired: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::STORAGE_METRICS_CALCULATION, measure)
}

async fn measure(message: MeasureStorage, run: &mut Run) -> Outcome {
    let sweep = Sweep {
        as_of: message.as_of,
        dry_run: message.dry_run,
        ..Sweep::default()
    };
    let mut sweep = Sweeper::<Report>::begin(run, sweep, 5000).await?;
    let date = message.snapshot_date.unwrap_or_else(|| sweep.as_of().date_naive());
    let today = Utc::now().date_naive();
    if date != today && Some(date) != today.checked_sub_days(Days::new(1)) {
        return dead(format!(
            "{date} is neither today nor yesterday: what was stored then is not known any more"
        ));
    }
    sweep
        .step("snapshot", async |page| {
            // One statement sees one moment. The entities of the last snapshot that have nothing now get one row that says so.
            page.report.rows = sqlx::query_scalar!(
                r#"WITH asset AS MATERIALIZED (
                       SELECT a.id, a.type, a.file_size, a.created_by, a.project_id,
                              coalesce((SELECT sum(v.file_size) FROM asset_variants v WHERE v.asset_id = a.id AND v.superseded_at IS NULL), 0) AS derived
                       FROM ip_assets a WHERE a.deleted_at IS NULL
                   ), share (entity_type, entity_id, id, type, file_size, derived) AS (
                       SELECT 'platform', '', id, type, file_size, derived FROM asset
                       UNION ALL
                       SELECT 'user', u.id, a.id, a.type, a.file_size, a.derived
                       FROM asset a JOIN users u ON u.id = a.created_by WHERE u.deleted_at IS NULL
                       UNION ALL
                       SELECT 'project', p.id, a.id, a.type, a.file_size, a.derived
                       FROM asset a JOIN projects p ON p.id = a.project_id WHERE p.deleted_at IS NULL
                       UNION ALL
                       SELECT 'brand', b.id, a.id, a.type, a.file_size, a.derived
                       FROM asset a JOIN projects p ON p.id = a.project_id JOIN brands b ON b.id = p.brand_id WHERE b.deleted_at IS NULL
                   ), by_type AS (
                       SELECT entity_type, entity_id, type, sum(file_size) AS bytes, count(*) AS files, sum(derived) AS derived,
                              max(file_size) AS largest, (array_agg(id ORDER BY file_size DESC, id))[1] AS largest_id
                       FROM share GROUP BY entity_type, entity_id, type
                   ), present AS (
                       SELECT entity_type, entity_id, sum(bytes) AS bytes, sum(files) AS files, sum(derived) AS derived, max(largest) AS largest,
                              (array_agg(largest_id ORDER BY largest DESC, largest_id))[1] AS largest_id,
                              jsonb_object_agg(type, jsonb_build_object('bytes', bytes::text, 'count', files)) AS breakdown
                       FROM by_type GROUP BY entity_type, entity_id
                   ), entity AS (
                       SELECT 'platform' AS entity_type, '' AS entity_id
                       UNION
                       SELECT entity_type, entity_id FROM present
                       UNION
                       SELECT m.entity_type, m.entity_id FROM storage_metrics m
                       WHERE m.snapshot_date = (SELECT max(snapshot_date) FROM storage_metrics WHERE snapshot_date < $1) AND m.total_bytes > 0
                         AND CASE m.entity_type
                                 WHEN 'user' THEN EXISTS (SELECT FROM users e WHERE e.id = m.entity_id AND e.deleted_at IS NULL)
                                 WHEN 'project' THEN EXISTS (SELECT FROM projects e WHERE e.id = m.entity_id AND e.deleted_at IS NULL)
                                 WHEN 'brand' THEN EXISTS (SELECT FROM brands e WHERE e.id = m.entity_id AND e.deleted_at IS NULL)
                             END
                   ), snapshot AS (
                       INSERT INTO storage_metrics AS s (snapshot_date, entity_type, entity_id, total_bytes, file_count, average_file_size,
                           largest_file_size, largest_file_id, derived_bytes, storage_trend_bps, breakdown_by_type)
                       SELECT $1, e.entity_type, e.entity_id, coalesce(n.bytes, 0), coalesce(n.files, 0), coalesce(floor(n.bytes / n.files), 0),
                              coalesce(n.largest, 0), n.largest_id, coalesce(n.derived, 0),
                              CASE WHEN before.total_bytes > 0 THEN
                                  least(2147483647, greatest(-10000, round((coalesce(n.bytes, 0) - before.total_bytes) * 10000 / before.total_bytes)))::int
                                  ELSE 0 END,
                              coalesce(n.breakdown, '{}')
                       FROM entity e LEFT JOIN present n USING (entity_type, entity_id)
                       LEFT JOIN LATERAL (
                           SELECT b.total_bytes FROM storage_metrics b
                           WHERE b.entity_type = e.entity_type AND b.entity_id = e.entity_id AND b.snapshot_date < $1
                           ORDER BY b.snapshot_date DESC LIMIT 1
                       ) before ON true
                       ON CONFLICT (snapshot_date, entity_type, entity_id) DO UPDATE
                       SET total_bytes = EXCLUDED.total_bytes, file_count = EXCLUDED.file_count, average_file_size = EXCLUDED.average_file_size,
                           largest_file_size = EXCLUDED.largest_file_size, largest_file_id = EXCLUDED.largest_file_id,
                           derived_bytes = EXCLUDED.derived_bytes, storage_trend_bps = EXCLUDED.storage_trend_bps,
                           breakdown_by_type = EXCLUDED.breakdown_by_type, updated_at = now()
                       RETURNING 1
                   )
                   SELECT count(*) AS "rows!" FROM snapshot"#,
                date,
            )
            .fetch_one(&mut *page.tx)
            .await?;
            Ok(Swept::default())
        })
        .await;
    sweep
        .step("expired", async |page| {
            let swept = delete_page!(
                page,
                "storage_metrics",
                "(snapshot_date::timestamp AT TIME ZONE 'UTC')",
                "(id::text)",
                "(snapshot_date::timestamp AT TIME ZONE 'UTC') < date_trunc('day', $1, 'UTC') - interval '400 days'
                 AND extract(day FROM snapshot_date) <> 1"
            )?;
            page.report.expired += swept.gone;
            Ok(swept)
        })
        .await;
    sweep.finish()
}
