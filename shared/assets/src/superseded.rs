use std::collections::HashSet;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jobs::Position;
use services::storage::ObjectKey;
use services::{Error, Storage, Timestamp};
use sqlx::PgConnection;

/// A variant that another one has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The row of `asset_variants`.
    pub id: String,
    /// When it was replaced.
    pub at: Timestamp,
    /// Its object; `None` when a live variant has it, too, or it has none.
    key: Option<ObjectKey>,
    bytes: i64,
}

/// What became of the objects of superseded variants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Variants whose object is gone.
    ids: Vec<String>,
    /// The sizes of those objects.
    pub bytes: i64,
    /// Objects that S3 did not delete.
    pub left: i64,
}

/// The next variants that were superseded a week before `as_of`: whoever had their address has another one by now (spec: assets,
/// `asset-cleanup` step 7). They are locked. Those of an asset that is being processed wait: a step may bring one back.
///
/// # Errors
/// Those of the database.
pub fn superseded<'a>(
    connection: &'a mut PgConnection,
    as_of: Timestamp,
    after: &'a Position,
    limit: i64,
) -> LocalBoxFuture<'a, Result<Vec<Superseded>, Error>> {
    async move {
        let rows = sqlx::query!(
            r#"SELECT v.id::text AS "id!", v.superseded_at AS "at!", v.storage_key, v.file_size,
                      EXISTS (SELECT FROM asset_variants l
                              WHERE l.asset_id = v.asset_id AND l.storage_key = v.storage_key AND l.superseded_at IS NULL) AS "is_live!"
               FROM asset_variants v
               WHERE v.superseded_at < $1::timestamptz - interval '7 days' AND (v.superseded_at, v.id::text) > ($2, $3)
                 AND NOT EXISTS (SELECT FROM asset_processing_steps s WHERE s.asset_id = v.asset_id AND s.status = 'RUNNING')
               ORDER BY v.superseded_at, v.id::text LIMIT $4 FOR UPDATE OF v SKIP LOCKED"#,
            as_of,
            after.at,
            after.id,
            limit,
        )
        .fetch_all(connection)
        .await?;
        let variants = rows.into_iter().map(|row| Superseded {
            key: ObjectKey::new(&row.storage_key).ok().filter(|_| !row.is_live),
            id: row.id,
            at: row.at,
            bytes: row.file_size,
        });
        Ok(variants.collect())
    }
    .boxed_local()
}

/// Deletes their objects, after the page was committed; in a dry run only counts. All of it may be done again.
pub fn discard<'a>(
    storage: &'a Storage,
    variants: &'a [Superseded],
    is_dry_run: bool,
) -> LocalBoxFuture<'a, Result<Discarded, Error>> {
    async move {
        let keys: Vec<_> = variants.iter().filter_map(|variant| variant.key.clone()).collect();
        let refused = match is_dry_run || keys.is_empty() {
            true => Vec::new(),
            false => storage.delete_all(&keys).await?,
        };
        let mut left = HashSet::new();
        for (key, error) in &refused {
            left.insert(key);
            tracing::warn!(error = error.chain(), "an object stays");
        }
        let mut discarded = Discarded::default();
        for variant in variants {
            match &variant.key {
                Some(key) if left.contains(key) => discarded.left += 1,
                key => {
                    discarded.ids.push(variant.id.clone());
                    discarded.bytes += if key.is_some() { variant.bytes } else { 0 };
                }
            }
        }
        Ok(discarded)
    }
    .boxed_local()
}

impl Discarded {
    /// Deletes the rows of what is gone, and gives how many there were.
    ///
    /// # Errors
    /// Those of the database.
    pub fn settle<'a>(&'a self, connection: &'a mut PgConnection) -> LocalBoxFuture<'a, Result<i64, Error>> {
        async move {
            let deleted = sqlx::query!(
                "DELETE FROM asset_variants WHERE id = ANY ($1::text[]::uuid[]) AND superseded_at IS NOT NULL",
                &self.ids,
            )
            .execute(connection)
            .await?;
            Ok(deleted.rows_affected().cast_signed())
        }
        .boxed_local()
    }
}
