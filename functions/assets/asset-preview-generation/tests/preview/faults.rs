//! Killed, refused and timed out at every call.

use bytes::Bytes;
use serde_json::json;
use testkit::faults;
use testkit::media::Studio;

use crate::{JOB, clip, given, given_user, made, row, step};

#[tokio::test]
async fn whatever_fails_there_is_one_live_preview_and_no_object_without_a_row() {
    let studio = Studio::new("faults");
    // Two objects are made of a sound.
    let sound: Bytes = studio.make("-f lavfi -i sine=440:d=1 -c:a pcm_s16le", "sound.wav");
    faults::everywhere("preview_faults", async |world| {
        given_user(world).await;
        given(world, "a", "AUDIO", "audio/wav", &sound).await;

        world.deliver(JOB, [json!({"assetId": "a"})]).await;

        // An operator sends what is dead again.
        if !world.dead_letters(JOB).is_empty() {
            world.deliver(JOB, [json!({"assetId": "a"})]).await;
        }
        assert_eq!(step(world, "a").await, "SUCCEEDED");
        let row = row(world, "a").await;
        let keys: Vec<String> = sqlx::query_scalar("SELECT storage_key FROM asset_variants ORDER BY storage_key")
            .fetch_all(&world.db)
            .await
            .expect("the variants");
        assert_eq!(made(world), keys);
        assert_eq!(row["file_size"], clip(world, "a").await.body.len());
        assert_eq!(keys.len(), 2);
        assert_eq!(world.count("SELECT count(*) FROM events").await, 1);
    })
    .await;
}
