//! `asset-preview-generation`, the built function with real files, made by ffmpeg while the tests run.

mod bulk;
mod faults;
mod hostile;
mod kinds;
mod ledger;
mod rules;

use serde_json::{Value, json};
use testkit::World;
use testkit::media::Studio;
use testkit::storage::Object;

const JOB: &str = "asset-preview-generation";
const BUCKET: &str = "assets";

/// A world with one user.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    given_user(&world).await;
    world
}

async fn given_user(world: &World) {
    world.execute("INSERT INTO users (id) VALUES ('u')", &[]).await;
}

/// A scanned asset of this content: its row, its object and its step as the pipeline plans it.
async fn given(world: &World, id: &str, kind: &str, mime_type: &str, content: impl AsRef<[u8]>) {
    let content = content.as_ref();
    let sha256 = sha256(world, content).await;
    let key = format!("assets/{id}/{}/original.bin", &sha256[..12]);
    world.storage.put(BUCKET, &key, content.to_vec());
    let bytes = content.len().max(1).to_string();
    world
        .execute(
            "INSERT INTO ip_assets (id, title, type, storage_key, file_size, mime_type, content_sha256, created_by, status, scan_status)
             VALUES ($1, 't', $2, $3, $4::bigint, $5, $6, 'u', 'REVIEW', 'CLEAN')",
            &[id, kind, &key, &bytes, mime_type, &sha256],
        )
        .await;
    world
        .execute(
            "INSERT INTO asset_processing_steps (asset_id, step, status, enqueued_at) VALUES ($1, 'preview', 'PENDING', now())",
            &[id],
        )
        .await;
}

async fn sha256(world: &World, content: &[u8]) -> String {
    sqlx::query_scalar("SELECT encode(sha256($1), 'hex')")
        .bind(content)
        .fetch_one(&world.db)
        .await
        .expect("a hash")
}

/// Delivers the message of one asset.
async fn preview(world: &World, id: &str) {
    world.deliver(JOB, [json!({ "assetId": id })]).await;
}

/// `STATUS REASON` of the asset's step.
async fn step(world: &World, id: &str) -> String {
    of_step(world, id, "concat_ws(' ', status, reason_code)").await
}

/// What went wrong with a step, as a person reads it.
async fn complaint(world: &World, id: &str) -> String {
    of_step(world, id, "coalesce(error_message, '')").await
}

async fn of_step(world: &World, id: &str, text: &str) -> String {
    let row = format!("SELECT {text} FROM asset_processing_steps WHERE asset_id = $1 AND step = 'preview'");
    sqlx::query_scalar(sqlx::AssertSqlSafe(row))
        .bind(id)
        .fetch_one(&world.db)
        .await
        .unwrap_or_else(|error| panic!("{id} has no such step: {error}"))
}

/// The live preview of an asset, its row as JSON.
async fn row(world: &World, id: &str) -> Value {
    let row =
        "SELECT to_jsonb(v) FROM asset_variants v WHERE asset_id = $1 AND kind = 'preview' AND superseded_at IS NULL";
    sqlx::query_scalar(row)
        .bind(id)
        .fetch_one(&world.db)
        .await
        .unwrap_or_else(|error| panic!("{id} has no live preview: {error}"))
}

/// The object of that preview.
async fn clip(world: &World, id: &str) -> Object {
    let row = row(world, id).await;
    let key = row["storage_key"].as_str().expect("a key");
    world.storage.object(BUCKET, key).expect("an object for the row")
}

/// What was stored that is no original.
fn made(world: &World) -> Vec<String> {
    let keys = world.storage.keys(BUCKET).into_iter();
    keys.filter(|key| !key.starts_with("assets/")).collect()
}

/// One made clip, probed.
struct Probed {
    format: Value,
    streams: Vec<Value>,
}

impl Probed {
    fn of(studio: &Studio, clip: &Object, file: &str) -> Self {
        let mut probe = studio.probe(&clip.body, file);
        let Value::Array(streams) = probe["streams"].take() else {
            panic!("{file} has no streams")
        };
        Self {
            format: probe["format"].take(),
            streams,
        }
    }

    fn stream(&self, kind: &str) -> &Value {
        let mut streams = self.streams.iter();
        streams
            .find(|stream| stream["codec_type"] == kind)
            .unwrap_or_else(|| panic!("no {kind}: {:?}", self.streams))
    }

    fn codecs(&self) -> Vec<&str> {
        let codecs = self.streams.iter().map(|stream| stream["codec_name"].as_str());
        codecs.map(Option::unwrap_or_default).collect()
    }

    fn size(&self) -> (u64, u64) {
        let video = self.stream("video");
        let side = |name: &str| video[name].as_u64().unwrap_or_default();
        (side("width"), side("height"))
    }

    fn seconds(&self) -> f64 {
        let duration = self.format["duration"].as_str().unwrap_or_default();
        duration.parse().unwrap_or_default()
    }
}
