use futures::FutureExt;
use futures::future::LocalBoxFuture;
use services::{Error, Timestamp};
use sqlx::PgConnection;

use crate::objects::{Condemned, Destroyed};

/// What is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An asset that nobody wants any more. A licence in force, or an open dispute, blocks that.
    Asset,
    /// A file with malware. Nothing blocks that: whoever has a licence may not have the file either.
    InfectedFile,
}

impl Subject {
    /// As the audit trail calls it.
    const fn action(self) -> &'static str {
        match self {
            Self::Asset => "ASSET_PURGED",
            Self::InfectedFile => "INFECTED_FILE_PURGED",
        }
    }
}

/// What was decided of some assets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// These are to go.
    pub condemned: Vec<Condemned>,
    /// So many stay for now; `purge_blocked_reason` says why.
    pub blocked: i64,
}

/// What became of condemned assets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows that are gone.
    pub removed: i64,
    /// Rows that stay without content.
    pub tombstones: i64,
    /// Rows that stay, because an object did.
    pub failed: i64,
}

/// Decides, and condemns all that is not blocked. The caller has locked the rows, and commits before it destroys anything.
///
/// A condemned asset is a deleted one: no application shows it, or gives it back.
///
/// # Errors
/// Those of the database.
pub fn condemn<'a>(
    connection: &'a mut PgConnection,
    subject: Subject,
    ids: &'a [String],
    as_of: Timestamp,
) -> LocalBoxFuture<'a, Result<Decision, Error>> {
    async move {
        if ids.is_empty() {
            return Ok(Decision::default());
        }
        // What has begun goes on: half an asset is of use to nobody. Grace is 7 days where a licence does not say.
        let rows = sqlx::query!(
            r#"WITH decision AS MATERIALIZED (
                   SELECT a.id, CASE
                       WHEN $3 OR a.purge_started_at IS NOT NULL THEN NULL
                       WHEN EXISTS (SELECT FROM licenses l
                                    WHERE l.ip_asset_id = a.id AND l.deleted_at IS NULL AND l.status NOT IN ('TERMINATED', 'CANCELED')
                                      AND (l.status IN ('ACTIVE', 'EXPIRING_SOON', 'SUSPENDED', 'DISPUTED')
                                           OR greatest(l.end_date + coalesce(l.grace_period_days, 7), l.grace_period_end_date)
                                              >= ($2::timestamptz AT TIME ZONE 'UTC')::date)) THEN 'license'
                       WHEN EXISTS (SELECT FROM ip_ownerships o
                                    WHERE o.ip_asset_id = a.id AND o.disputed AND o.resolved_at IS NULL) THEN 'dispute'
                       END AS blocked
                   FROM ip_assets a WHERE a.id = ANY ($1)
               ), condemned AS (
                   UPDATE ip_assets a
                   SET purge_started_at = $2, deleted_at = coalesce(a.deleted_at, $2), purge_blocked_reason = NULL
                   FROM decision d WHERE a.id = d.id AND d.blocked IS NULL AND a.purge_started_at IS NULL
               ), blocked AS (
                   UPDATE ip_assets a SET purge_blocked_reason = d.blocked
                   FROM decision d WHERE a.id = d.id AND d.blocked IS NOT NULL AND d.blocked IS DISTINCT FROM a.purge_blocked_reason
               )
               SELECT d.id AS "id!", d.blocked IS NOT NULL AS "blocked!", a.storage_key AS "storage_key!",
                      array_remove(ARRAY[a.quarantine_key, a.thumbnail_key, a.preview_key], NULL)
                      || ARRAY(SELECT v.storage_key FROM asset_variants v WHERE v.asset_id = a.id) AS "generated!"
               FROM decision d JOIN ip_assets a ON a.id = d.id ORDER BY array_position($1, d.id)"#,
            ids,
            as_of,
            subject == Subject::InfectedFile,
        )
        .fetch_all(connection)
        .await?;
        let mut decision = Decision::default();
        for row in rows {
            if row.blocked {
                decision.blocked += 1;
            } else {
                decision
                    .condemned
                    .push(Condemned::asset(row.id, row.storage_key, row.generated));
            }
        }
        Ok(decision)
    }
    .boxed_local()
}

/// Ends condemned assets of which everything is gone, and notes failures with the others. Those that somebody else has ended, or is
/// about to, are theirs.
///
/// # Errors
/// Those of the database.
pub fn settle<'a>(
    connection: &'a mut PgConnection,
    subject: Subject,
    destroyed: &'a [Destroyed],
    as_of: Timestamp,
) -> LocalBoxFuture<'a, Result<Settled, Error>> {
    async move {
        let ids: Vec<_> = destroyed.iter().map(|asset| asset.id.clone()).collect();
        // From here on nothing new refers to them. A statement of its own: the next one must see what was there before.
        let ours = sqlx::query_scalar!(
            "SELECT id FROM ip_assets WHERE id = ANY ($1) AND purge_started_at IS NOT NULL AND purged_at IS NULL
             ORDER BY id FOR UPDATE SKIP LOCKED",
            &ids,
        )
        .fetch_all(&mut *connection)
        .await?;
        let ours: Vec<_> = destroyed.iter().filter(|asset| ours.contains(&asset.id)).collect();
        if ours.is_empty() {
            return Ok(Settled::default());
        }
        let ids: Vec<_> = ours.iter().map(|asset| asset.id.clone()).collect();
        let bytes: Vec<_> = ours.iter().map(|asset| asset.bytes).collect();
        let objects: Vec<_> = ours.iter().map(|asset| asset.objects).collect();
        let incomplete: Vec<_> = ours.iter().map(|asset| asset.is_incomplete()).collect();
        // Weekly and monthly metrics are made of daily ones. Events know assets by id only, and outlive them.
        Ok(sqlx::query_as!(
            Settled,
            r#"WITH outcome AS (
                   SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::boolean[]) AS o (id, bytes, objects, incomplete)
               ), ending AS MATERIALIZED (
                   SELECT a.id, a.type, coalesce(a.content_sha256, a.scan_result ->> 'sha256') AS sha256, a.scan_result, a.created_by,
                          a.quarantined_at, o.bytes, o.objects,
                          EXISTS (SELECT FROM licenses r WHERE r.ip_asset_id = a.id)
                          OR EXISTS (SELECT FROM ip_ownerships r WHERE r.ip_asset_id = a.id)
                          OR EXISTS (SELECT FROM ip_assets r WHERE r.parent_asset_id = a.id)
                          OR EXISTS (SELECT FROM daily_metrics r WHERE r.ip_asset_id = a.id) AS stays
                   FROM ip_assets a JOIN outcome o ON o.id = a.id WHERE NOT o.incomplete
               ), audited AS (
                   INSERT INTO audit_events (action, entity_type, entity_id, after_state, metadata)
                   SELECT $6, 'asset', id,
                          jsonb_build_object('kind', CASE WHEN stays THEN 'tombstone' ELSE 'removed' END, 'type', type, 'sha256', sha256,
                                             'bytes', bytes::text, 'objects', objects)
                          || CASE WHEN $7 THEN jsonb_build_object('scanResult', scan_result, 'uploader', created_by,
                                                                  'quarantinedAt', quarantined_at) ELSE '{}' END,
                          '{"actor": "system"}'
                   FROM ending
               ), variants AS (
                   DELETE FROM asset_variants v USING ending e WHERE v.asset_id = e.id
               ), steps AS (
                   DELETE FROM asset_processing_steps s USING ending e WHERE s.asset_id = e.id
               ), removed AS (
                   DELETE FROM ip_assets a USING ending e WHERE a.id = e.id AND NOT e.stays RETURNING 1
               ), tombstones AS (
                   UPDATE ip_assets a
                   SET purged_at = $5, title = '[deleted]', description = NULL, metadata = NULL, processing_config = NULL,
                       storage_key = 'purged/' || a.id, quarantine_key = NULL, thumbnail_key = NULL, preview_key = NULL
                   FROM ending e WHERE a.id = e.id AND e.stays RETURNING 1
               ), failed AS (
                   UPDATE ip_assets a SET purge_failed_count = a.purge_failed_count + 1, purge_failed_at = $5
                   FROM outcome o WHERE a.id = o.id AND o.incomplete RETURNING 1
               )
               SELECT (SELECT count(*) FROM removed) AS "removed!", (SELECT count(*) FROM tombstones) AS "tombstones!",
                      (SELECT count(*) FROM failed) AS "failed!""#,
            &ids,
            &bytes,
            &objects,
            &incomplete,
            as_of,
            subject.action(),
            subject == Subject::InfectedFile,
        )
        .fetch_one(connection)
        .await?)
    }
    .boxed_local()
}
