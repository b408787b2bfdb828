//! The rows of a brand, an asset or a project, page by page.

use jobs::{Id, SearchEntity, SearchFilter};
use services::Error;
use sqlx::PgPool;

/// The next ids of the filter after one. A table that does not know the filter has none: no such message is accepted.
pub(crate) async fn page(
    pool: &PgPool,
    entity: SearchEntity,
    filter: &SearchFilter,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, Error> {
    macro_rules! page {
        ($sql:literal, $of:expr) => {
            sqlx::query_scalar!($sql, $of.as_str(), after, limit)
                .fetch_all(pool)
                .await?
        };
    }
    Ok(match (entity, filter) {
        (SearchEntity::License, SearchFilter::BrandId(brand)) => {
            page!(
                "SELECT id FROM licenses WHERE brand_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                brand
            )
        }
        (SearchEntity::License, SearchFilter::IpAssetId(asset)) => {
            page!(
                "SELECT id FROM licenses WHERE ip_asset_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                asset
            )
        }
        (SearchEntity::License, SearchFilter::ProjectId(project)) => {
            page!(
                "SELECT id FROM licenses WHERE project_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                project
            )
        }
        (SearchEntity::Project, SearchFilter::BrandId(brand)) => {
            page!(
                "SELECT id FROM projects WHERE brand_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                brand
            )
        }
        (SearchEntity::Asset, SearchFilter::ProjectId(project)) => {
            page!(
                "SELECT id FROM ip_assets WHERE project_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                project
            )
        }
        _ => Vec::new(),
    })
}

/// Whether a licence or project of the brand has a wrong vector.
pub(crate) async fn any_of_brand_is_stale(pool: &PgPool, entity: SearchEntity, brand: &Id) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT CASE $1 WHEN 'license'
               THEN EXISTS (SELECT FROM licenses t WHERE brand_id = $2 AND search_vector IS DISTINCT FROM search_vector_of(t))
               ELSE EXISTS (SELECT FROM projects t WHERE brand_id = $2 AND search_vector IS DISTINCT FROM search_vector_of(t)) END AS "stale!""#,
        entity.as_str(),
        brand.as_str(),
    )
    .fetch_one(pool)
    .await?)
}
