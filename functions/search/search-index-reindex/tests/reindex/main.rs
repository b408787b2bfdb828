//! `search-index-reindex` (spec: business, section 4), the built function on a real database.

mod acceptance;
mod convergence;

use testkit::World;

const JOB: &str = "search-index-reindex";

/// Rows whose vectors are not what they have to be.
async fn wrong(world: &World) -> i64 {
    world
        .count("SELECT count(*) FROM search_vectors WHERE stored IS DISTINCT FROM fresh")
        .await
}
