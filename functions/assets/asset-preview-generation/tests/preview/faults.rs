//! Killed, refused and timed out at every call.

use bytes::Bytes;
use serde_json::json;
use testkit::faults;
use testkit::media::Studio;

use crate::{JOB, clip, given, given_user, made, row, step};

#[tokio::test]
async fn whatever_fails_there_is_one_live_preview_and_no_object_without_a_row() {
    let studio = Studio::new("faults");
    let film: Bytes = studio.make("-f lavfi -i testsrc2=s=32x32:r=5:d=1 -c:v libx264", "film.mp4");
    faults::everywhere("preview_faults", async |world| {
        given_user(world).await;
        given(world, "a", "VIDEO", "video/mp4", &film).await;

        world.deliver(JOB, [json!({"assetId": "a"})]).await;

        // An operator sends what is dead again.
        if !world.dead_letters(JOB).is_empty() {
            world.deliver(JOB, [json!({"assetId": "a"})]).await;
        }
        assert_eq!(step(world, "a").await, "SUCCEEDED");
        let row = row(world, "a").await;
        assert_eq!(made(world), [row["storage_key"].as_str().expect("a key")]);
        assert_eq!(row["file_size"], clip(world, "a").await.body.len());
        assert_eq!(world.count("SELECT count(*) FROM asset_variants").await, 1);
        assert_eq!(world.count("SELECT count(*) FROM events").await, 1);
    })
    .await;
}
