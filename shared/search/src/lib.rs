//! The search index: a `tsvector` in every row that can be found (spec: business, section 4).
//!
//! # Invariants
//!
//! * What a vector has to be is said in one place, the SQL function `search_vector_of`: triggers call it when the row's own columns
//!   change, the jobs call it again for what a trigger cannot see: the title of another table's row, a write past the triggers.
//! * The row decides, not the message: a deleted row has no vector, any other has the one of its present text. So messages may be
//!   lost, repeated and reordered, and whatever is wrong is put right by the next look at the row.
//! * A row whose vector is right is not written, and nothing but the vector is: `updated_at` is the user's.
//!
//! # Ways to get this wrong
//!
//! * Computing a vector in a `SELECT` and writing it in a later statement, or from a join: a write of the user's in between would be
//!   overwritten by the text before it. `search_vector_of` is called on the row that the `UPDATE` holds.

use std::collections::BTreeMap;

use jobs::{BulkUpdateSearchIndex, Id, SearchEntity};
use services::{Error, Kind};
use sqlx::PgPool;

/// Rows to look at, by table.
#[derive(Clone, Debug, Default)]
pub struct Rows([Vec<String>; SearchEntity::ALL.len()]);

impl Rows {
    /// Rows of one table.
    pub fn of(entity: SearchEntity, ids: impl IntoIterator<Item = String>) -> Self {
        let mut rows = Self::default();
        rows.0[entity as usize].extend(ids);
        rows
    }

    /// Adds a row.
    pub fn push(&mut self, entity: SearchEntity, id: &Id) {
        self.0[entity as usize].push(id.to_string());
    }

    fn ids(&self, entity: SearchEntity) -> &[String] {
        &self.0[entity as usize]
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was right.
    Right,
    /// It has a new vector.
    Changed,
    /// It is deleted, and its vector is gone.
    Cleared,
}

/// What a look at rows found and did.
#[derive(Debug, Default)]
pub struct Refreshed {
    fates: BTreeMap<(SearchEntity, String), Fate>,
    /// Licences, other than those looked at, whose vectors are wrong: their text comes from an asset or a project that was looked at.
    pub stale_licenses: Vec<String>,
    /// Rows that could not be written.
    pub failed: Vec<String>,
}

impl Refreshed {
    /// What became of a row; none when it is not there.
    pub fn fate(&self, entity: SearchEntity, id: &str) -> Option<Fate> {
        self.fates.get(&(entity, id.to_owned())).copied()
    }

    /// How many rows had this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.fates.values().filter(|each| **each == fate).count()
    }

    /// How many rows were there.
    pub fn found(&self) -> usize {
        self.fates.len()
    }

    /// The messages that put the stale licences right.
    pub fn follow_ups(&self) -> Vec<BulkUpdateSearchIndex> {
        let ids: Vec<Id> = self.stale_licenses.iter().filter_map(|id| id.parse().ok()).collect();
        ids.chunks(BulkUpdateSearchIndex::MAX_IDS)
            .map(|ids| BulkUpdateSearchIndex {
                entity_type: SearchEntity::License,
                entity_ids: ids.to_vec(),
                filter: None,
                cursor: None,
            })
            .collect()
    }

    fn add(&mut self, other: Self) {
        self.fates.extend(other.fates);
        self.stale_licenses.extend(other.stale_licenses);
        self.failed.extend(other.failed);
    }
}

/// Puts the vectors of rows right, whatever tables they are of, in one statement.
pub async fn refresh(executor: impl sqlx::PgExecutor<'_>, rows: &Rows) -> Result<Refreshed, Error> {
    let found = sqlx::query!(
        r#"WITH asset AS (
               UPDATE ip_assets t SET search_vector = search_vector_of(t)
               WHERE id = ANY($1) AND search_vector IS DISTINCT FROM search_vector_of(t) RETURNING id, search_vector IS NULL AS cleared
           ), creator AS (
               UPDATE creators t SET search_vector = search_vector_of(t)
               WHERE id = ANY($2) AND search_vector IS DISTINCT FROM search_vector_of(t) RETURNING id, search_vector IS NULL AS cleared
           ), project AS (
               UPDATE projects t SET search_vector = search_vector_of(t)
               WHERE id = ANY($3) AND search_vector IS DISTINCT FROM search_vector_of(t) RETURNING id, search_vector IS NULL AS cleared
           ), license AS (
               UPDATE licenses t SET search_vector = search_vector_of(t)
               WHERE id = ANY($4) AND search_vector IS DISTINCT FROM search_vector_of(t) RETURNING id, search_vector IS NULL AS cleared
           ), post AS (
               UPDATE posts t SET search_vector = search_vector_of(t)
               WHERE id = ANY($5) AND search_vector IS DISTINCT FROM search_vector_of(t) RETURNING id, search_vector IS NULL AS cleared
           )
           SELECT 0 AS "entity!", id AS "id!", cleared, false AS "follows!" FROM ip_assets LEFT JOIN asset USING (id) WHERE id = ANY($1)
           UNION ALL SELECT 1, id, cleared, false FROM creators LEFT JOIN creator USING (id) WHERE id = ANY($2)
           UNION ALL SELECT 2, id, cleared, false FROM projects LEFT JOIN project USING (id) WHERE id = ANY($3)
           UNION ALL SELECT 3, id, cleared, false FROM licenses LEFT JOIN license USING (id) WHERE id = ANY($4)
           UNION ALL SELECT 4, id, cleared, false FROM posts LEFT JOIN post USING (id) WHERE id = ANY($5)
           UNION ALL SELECT 3, id, NULL, true FROM licenses t
           WHERE (ip_asset_id = ANY($1) OR project_id = ANY($3)) AND id <> ALL($4) AND search_vector IS DISTINCT FROM search_vector_of(t)"#,
        rows.ids(SearchEntity::Asset),
        rows.ids(SearchEntity::Creator),
        rows.ids(SearchEntity::Project),
        rows.ids(SearchEntity::License),
        rows.ids(SearchEntity::BlogPost),
    )
    .fetch_all(executor)
    .await?;
    let mut refreshed = Refreshed::default();
    for row in found {
        if row.follows {
            refreshed.stale_licenses.push(row.id);
            continue;
        }
        let fate = match row.cleared {
            None => Fate::Right,
            Some(false) => Fate::Changed,
            Some(true) => Fate::Cleared,
        };
        let entity = SearchEntity::ALL[row.entity.unsigned_abs() as usize];
        refreshed.fates.insert((entity, row.id), fate);
    }
    Ok(refreshed)
}

/// Puts rows of one table right; when the database refuses one of them, row by row, so that only that one is left behind.
pub async fn refresh_each(pool: &PgPool, entity: SearchEntity, ids: &[String]) -> Result<Refreshed, Error> {
    match refresh(pool, &Rows::of(entity, ids.iter().cloned())).await {
        Err(error) if error.kind == Kind::Permanent => (),
        result => return result,
    }
    let mut refreshed = Refreshed::default();
    // A statement a row: which one is refused can be found in no other way, and that is rare.
    for id in ids {
        match refresh(pool, &Rows::of(entity, [id.clone()])).await {
            Ok(one) => refreshed.add(one),
            Err(error) if error.kind == Kind::Permanent => {
                tracing::error!(
                    entity = entity.as_str(),
                    id,
                    error = error.chain(),
                    "a row cannot be indexed"
                );
                refreshed.failed.push(id.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refreshed)
}
