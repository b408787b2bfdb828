//! Pages of a table: which of their rows are wrong, and writing those.

use futures::TryStreamExt;
use futures::stream::{self, Stream};
use jobs::SearchEntity;
use runtime::Failure;
use search::{Fate, Refreshed, Rows};
use services::{Error, Kind};
use sqlx::PgPool;

use crate::runs::{self, Reindex};

/// Pages whose borders are read together.
const BORDERS: i64 = 50;

/// A page: the rows behind one id, up to another.
#[derive(Debug)]
pub(crate) struct Page {
    after: String,
    upto: String,
    rows: i64,
    /// Those whose vectors are wrong; none when the database could not even compute one of them.
    stale: Option<Vec<String>>,
}

/// What became of the rows of a page.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub rows: i64,
    pub changed: i64,
    pub cleared: i64,
    pub failed: Vec<String>,
}

impl Counts {
    fn of(rows: i64, refreshed: Refreshed) -> Self {
        Self {
            rows,
            changed: refreshed.count(Fate::Changed) as i64,
            cleared: refreshed.count(Fate::Cleared) as i64,
            failed: refreshed.failed,
        }
    }
}

/// The pages behind an id, in order, with what is wrong in them. As many are looked at together as there are connections: all but one
/// are still being looked at when the first is handed out, and its writing needs that one.
pub(crate) fn ahead(
    pool: &PgPool,
    entity: SearchEntity,
    after: String,
    batch_size: i64,
) -> impl Stream<Item = Result<Page, Error>> {
    let borders = stream::try_unfold(after, move |after| async move {
        let borders = borders(pool, entity, &after, batch_size).await?;
        let Some(last) = borders.last().cloned() else {
            return Ok::<_, Error>(None);
        };
        let from = std::iter::once(after).chain(borders.clone());
        let pages: Vec<_> = from.zip(borders).map(Ok::<_, Error>).collect();
        Ok(Some((stream::iter(pages), last)))
    });
    borders
        .try_flatten()
        .map_ok(move |(after, upto)| look(pool, entity, after, upto))
        .try_buffered(pool.options().get_max_connections() as usize)
}

/// The last ids of the next pages.
async fn borders(pool: &PgPool, entity: SearchEntity, after: &str, batch_size: i64) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id!"
           FROM (SELECT id, row_number() OVER (ORDER BY id) AS n, count(*) OVER () AS last
                 FROM (SELECT id FROM search_vectors WHERE entity = $1 AND id > $2 ORDER BY id LIMIT $3::bigint * $4::bigint) AS rows) AS numbered
           WHERE n % $3::bigint = 0 OR n = last
           ORDER BY id"#,
        entity.as_str(),
        after,
        batch_size,
        BORDERS,
    )
    .fetch_all(pool)
    .await?)
}

async fn look(pool: &PgPool, entity: SearchEntity, after: String, upto: String) -> Result<Page, Error> {
    let seen = sqlx::query!(
        r#"SELECT count(*) AS "rows!", coalesce(array_agg(id) FILTER (WHERE stored IS DISTINCT FROM fresh), '{}') AS "stale!"
           FROM search_vectors WHERE entity = $1 AND id > $2 AND id <= $3"#,
        entity.as_str(),
        after,
        upto,
    )
    .fetch_one(pool)
    .await
    .map_err(Error::from);
    let (rows, stale) = match seen {
        Ok(seen) => (seen.rows, Some(seen.stale)),
        Err(error) if error.kind == Kind::Permanent => (0, None),
        Err(error) => return Err(error),
    };
    Ok(Page {
        after,
        upto,
        rows,
        stale,
    })
}

/// Writes what is wrong in a page and moves the cursor behind it, in one commit.
pub(crate) async fn write(pool: &PgPool, reindex: &mut Reindex, page: Page) -> Result<(), Failure> {
    let entity = reindex.at;
    let counts = match &page.stale {
        Some(stale) if stale.is_empty() => {
            let counts = Counts::of(page.rows, Refreshed::default());
            let mut connection = pool.acquire().await?;
            runs::advance(&mut connection, reindex, &page.upto, &counts).await?;
            counts
        }
        Some(stale) => {
            let mut tx = pool.begin().await?;
            match search::refresh(&mut *tx, &Rows::of(entity, stale.iter().cloned())).await {
                Ok(refreshed) => {
                    let counts = Counts::of(page.rows, refreshed);
                    runs::advance(&mut tx, reindex, &page.upto, &counts).await?;
                    tx.commit().await?;
                    counts
                }
                Err(error) if error.kind == Kind::Permanent => {
                    tx.rollback().await?;
                    write_one_by_one(pool, reindex, &page).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        None => write_one_by_one(pool, reindex, &page).await?,
    };
    reindex.after = page.upto;
    reindex.processed += counts.rows;
    Ok(())
}

/// A row of the page is refused: the others are written, one by one.
async fn write_one_by_one(pool: &PgPool, reindex: &Reindex, page: &Page) -> Result<Counts, Failure> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM search_vectors WHERE entity = $1 AND id > $2 AND id <= $3 ORDER BY id"#,
        reindex.at.as_str(),
        page.after,
        page.upto,
    )
    .fetch_all(pool)
    .await?;
    let refreshed = search::refresh_each(pool, reindex.at, &ids).await?;
    let counts = Counts::of(ids.len() as i64, refreshed);
    let mut connection = pool.acquire().await?;
    runs::advance(&mut connection, reindex, &page.upto, &counts).await?;
    Ok(counts)
}

/// What so many changes leave behind slows queries down: entries that wait beside the index, and old statistics.
pub(crate) async fn settle(pool: &PgPool, entity: SearchEntity) -> Result<(), Error> {
    let settle = match entity {
        SearchEntity::Asset => "SELECT gin_clean_pending_list('ip_assets_search'); ANALYZE ip_assets",
        SearchEntity::Creator => "SELECT gin_clean_pending_list('creators_search'); ANALYZE creators",
        SearchEntity::Project => "SELECT gin_clean_pending_list('projects_search'); ANALYZE projects",
        SearchEntity::License => "SELECT gin_clean_pending_list('licenses_search'); ANALYZE licenses",
        SearchEntity::BlogPost => "SELECT gin_clean_pending_list('posts_search'); ANALYZE posts",
    };
    sqlx::raw_sql(settle).execute(pool).await?;
    Ok(())
}
