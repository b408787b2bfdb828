//! Pages of a table: which of their rows are wrong, and writing those.

use std::time::{Duration, Instant};

use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use jobs::SearchEntity;
use runtime::Failure;
use search::{Fate, Refreshed, Rows};
use services::{Error, Kind};
use sqlx::PgPool;

use crate::runs::{self, Reindex};

/// Pages whose borders are read together.
const BORDERS: i64 = 50;

/// Rows whose vectors are computed together: planning costs as much as computing ten.
const LOOK_AT: usize = 500;

/// How much looking may be lost: a page that is older is written, however little is wrong in it.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A page: the rows behind one id, up to another.
#[derive(Debug)]
pub(crate) struct Page {
    after: String,
    upto: String,
    rows: i64,
    /// Those whose vectors are wrong; none when the database could not even compute one of those looked at together.
    stale: Option<Vec<String>>,
    looked_at: Instant,
}

impl Page {
    /// Whether the next page can be written with this one: no more wrong rows together than a page has rows.
    fn takes(&self, next: &Self, batch_size: i64) -> bool {
        let (Some(stale), Some(more)) = (&self.stale, &next.stale) else {
            return false;
        };
        (stale.len() + more.len()) as i64 <= batch_size && self.looked_at.elapsed() < WRITE_EVERY
    }

    fn join(&mut self, next: Self) {
        self.upto = next.upto;
        self.rows += next.rows;
        self.stale = self
            .stale
            .take()
            .zip(next.stale)
            .map(|(stale, more)| [stale, more].concat());
    }
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

/// The pages behind an id, in order, with what is wrong in them; one after the other in which little is wrong are joined, as most of what
/// a page costs is its commit.
pub(crate) fn ahead(
    pool: &PgPool,
    entity: SearchEntity,
    after: String,
    batch_size: i64,
) -> impl Stream<Item = Result<Page, Error>> {
    let looked = Box::pin(looked(pool, entity, after, batch_size).peekable());
    stream::try_unfold(looked, move |mut looked| async move {
        let Some(mut page) = looked.try_next().await? else {
            return Ok(None);
        };
        while let Some(next) = looked
            .as_mut()
            .next_if(|next| next.as_ref().is_ok_and(|next| page.takes(next, batch_size)))
            .await
        {
            page.join(next?);
        }
        Ok(Some((page, looked)))
    })
}

/// As many stretches of pages are looked at together as there are connections: all but one are still being looked at when the first is
/// handed out, and its writing needs that one.
fn looked(
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
        let pages: Vec<_> = from.zip(borders).collect();
        let together = (LOOK_AT / batch_size as usize).max(1);
        let stretches: Vec<_> = pages.chunks(together).map(|pages| Ok(pages.to_vec())).collect();
        Ok(Some((stream::iter(stretches), last)))
    });
    borders
        .try_flatten()
        .map_ok(move |stretch| look(pool, entity, stretch))
        .try_buffered(pool.options().get_max_connections() as usize)
        .map_ok(|pages| stream::iter(pages).map(Ok))
        .try_flatten()
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

async fn look(pool: &PgPool, entity: SearchEntity, stretch: Vec<(String, String)>) -> Result<Vec<Page>, Error> {
    let (after, upto): (Vec<_>, Vec<_>) = stretch.into_iter().unzip();
    let seen = sqlx::query!(
        r#"SELECT rows AS "rows!", stale AS "stale!"
           FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS page (after, upto, n),
                LATERAL (SELECT count(*) AS rows, coalesce(array_agg(id) FILTER (WHERE stored IS DISTINCT FROM fresh), '{}') AS stale
                         FROM search_vectors WHERE entity = $1 AND id > page.after AND id <= page.upto) AS seen
           ORDER BY n"#,
        entity.as_str(),
        &after,
        &upto,
    )
    .fetch_all(pool)
    .await
    .map_err(Error::from);
    let seen: Vec<_> = match seen {
        Ok(seen) => seen.into_iter().map(|page| (page.rows, Some(page.stale))).collect(),
        // One row that cannot be computed: the pages are told apart when they are written.
        Err(error) if error.kind == Kind::Permanent => vec![(0, None); upto.len()],
        Err(error) => return Err(error),
    };
    let looked_at = Instant::now();
    let pages = after.into_iter().zip(upto).zip(seen);
    let pages = pages.map(|((after, upto), (rows, stale))| Page {
        after,
        upto,
        rows,
        stale,
        looked_at,
    });
    Ok(pages.collect())
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
    reindex.written += counts.changed + counts.cleared;
    Ok(())
}

/// A row of the page is refused: the others are written, one by one.
async fn write_one_by_one(pool: &PgPool, reindex: &Reindex, page: &Page) -> Result<Counts, Failure> {
    let (rows, ids) = match &page.stale {
        Some(stale) => (page.rows, stale.clone()),
        None => {
            let ids = sqlx::query_scalar!(
                r#"SELECT id AS "id!" FROM search_vectors WHERE entity = $1 AND id > $2 AND id <= $3 ORDER BY id"#,
                reindex.at.as_str(),
                page.after,
                page.upto,
            )
            .fetch_all(pool)
            .await?;
            (ids.len() as i64, ids)
        }
    };
    let refreshed = search::refresh_each(pool, reindex.at, &ids).await?;
    let counts = Counts::of(rows, refreshed);
    let mut connection = pool.acquire().await?;
    runs::advance(&mut connection, reindex, &page.upto, &counts).await?;
    Ok(counts)
}

/// What many changes leave behind slows queries down: entries that wait beside the index, and old statistics. New ones are as expensive as
/// a seventh of the reindex, and are made when a tenth has changed, which is autovacuum's measure, too. The database may not have heard
/// yet of what this run has written.
pub(crate) async fn settle(pool: &PgPool, reindex: &Reindex) -> Result<(), Error> {
    let (table, index, analyze) = match reindex.at {
        SearchEntity::Asset => ("ip_assets", "ip_assets_search", "ANALYZE ip_assets"),
        SearchEntity::Creator => ("creators", "creators_search", "ANALYZE creators"),
        SearchEntity::Project => ("projects", "projects_search", "ANALYZE projects"),
        SearchEntity::License => ("licenses", "licenses_search", "ANALYZE licenses"),
        SearchEntity::BlogPost => ("posts", "posts_search", "ANALYZE posts"),
    };
    let is_outdated = sqlx::query_scalar!(
        r#"SELECT s.n_mod_since_analyze + $3 > s.n_live_tup / 10 AS "is_outdated!"
           FROM gin_clean_pending_list($1::text::regclass), pg_stat_user_tables s WHERE s.relid = $2::text::regclass"#,
        index,
        table,
        reindex.written,
    )
    .fetch_one(pool)
    .await?;
    if is_outdated {
        sqlx::raw_sql(analyze).execute(pool).await?;
    }
    Ok(())
}
