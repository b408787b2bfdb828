//! What refers to an asset is decided on when the asset ends.

use testkit::World;

/// What `settle` deletes, and what makes it leave a tombstone. A new table goes into one of the two lists, and into the statement.
const DELETED: [&str; 2] = ["asset_processing_steps", "asset_variants"];
const KEPT: [&str; 3] = ["ip_assets", "ip_ownerships", "licenses"];

#[tokio::test]
async fn whoever_ends_an_asset_knows_every_table_that_refers_to_it() {
    let world = World::new("asset_references").await;

    let referring: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND confrelid = 'ip_assets'::regclass ORDER BY 1",
    )
    .fetch_all(&world.db)
    .await
    .expect("the catalog of the database");

    let mut known = [&DELETED[..], &KEPT[..]].concat();
    known.sort_unstable();
    assert_eq!(referring, known);
}
