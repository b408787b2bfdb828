//! A film of our own making, which lies in the bucket as the scan leaves one, and the clip that is cut out of it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use aws_sdk_s3::config::RequestChecksumCalculation;
use serde_json::{Value, json};
use sqlx::PgConnection;
use testkit::media::Studio;

use super::cast::{Cast, MARK};
use super::facts::Check;
use super::wire::{Message, Wire};
use super::{LOOK_EVERY, PATIENCE};
use crate::environment::Environment;
use crate::progress::Progress;

const JOB: &str = "asset-preview-generation";
/// How ffmpeg makes the film.
const FILM: &str = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=14
    -f lavfi -i sine=frequency=440:sample_rate=48000:duration=14
    -c:v libx264 -preset ultrafast -crf 30 -pix_fmt yuv420p -c:a aac";
const MIME_TYPE: &str = "video/mp4";

/// The engine's S3.
pub(super) struct Bucket {
    s3: aws_sdk_s3::Client,
    name: String,
}

impl Bucket {
    pub(super) async fn new(environment: &Environment) -> Result<Self> {
        let config = environment.aws().await;
        // The engine has no host name for each bucket.
        let config = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        Ok(Self {
            s3: aws_sdk_s3::Client::from_conf(config.build()),
            name: environment.get("ASSETS_BUCKET").context("ASSETS_BUCKET is not set")?,
        })
    }

    /// Removes the files of earlier demos.
    pub(super) async fn clear(&self) -> Result<()> {
        for folder in ["assets", "derived"] {
            let list = self.s3.list_objects_v2().bucket(&self.name);
            let found = list.prefix(format!("{folder}/{MARK}")).send().await;
            let found = found.context("could not look for what earlier demos left in the bucket")?;
            for key in found.contents().iter().filter_map(|object| object.key()) {
                let gone = self.s3.delete_object().bucket(&self.name).key(key).send().await;
                gone.with_context(|| format!("could not delete {key}"))?;
            }
        }
        Ok(())
    }

    async fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let put = self.s3.put_object().bucket(&self.name).key(key);
        let put = put.content_type(MIME_TYPE).body(content.to_vec().into());
        put.send().await.with_context(|| format!("could not upload {key}"))?;
        Ok(())
    }

    /// A file as it lies there.
    async fn file(&self, key: &str, studio: &Studio, database: &mut PgConnection) -> Result<File> {
        let answer = self.s3.get_object().bucket(&self.name).key(key).send().await;
        let object = answer.with_context(|| format!("could not read {key}"))?;
        let mime_type = object.content_type().unwrap_or_default().to_owned();
        let content = object.body.collect().await;
        let content = content.with_context(|| format!("could not read {key}"))?.into_bytes();
        Ok(File {
            key: key.to_owned(),
            mime_type,
            bytes: content.len(),
            sha256: sha256(database, &content).await?,
            what: what(&studio.probe(&content, "read-back.mp4")),
        })
    }
}

/// A film that was uploaded, and the clip that came back.
#[derive(Debug)]
pub(super) struct Clip {
    pub(super) film: File,
    pub(super) preview: File,
    row: Row,
}

/// A file of the bucket.
#[derive(Debug)]
pub(super) struct File {
    key: String,
    mime_type: String,
    bytes: usize,
    sha256: String,
    /// Seconds, pixels and codecs.
    what: String,
}

/// The row of `asset_variants`.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    storage_key: String,
    file_size: i64,
    sha256: Option<String>,
}

impl File {
    pub(super) fn line(&self) -> String {
        let Self {
            key,
            mime_type,
            bytes,
            what,
            ..
        } = self;
        format!("{what} in {mime_type}, {bytes} bytes: {key}")
    }
}

impl Clip {
    pub(super) fn check(&self) -> Check {
        let has_size = usize::try_from(self.row.file_size).is_ok_and(|bytes| bytes == self.preview.bytes);
        Check {
            holds: has_size && self.row.sha256.as_deref() == Some(self.preview.sha256.as_str()),
            what: "the clip in the bucket is the one that its row tells of: same size and SHA-256".to_owned(),
        }
    }
}

/// Uploads a film and has its clip made.
pub(super) async fn show(
    cast: &Cast,
    bucket: &Bucket,
    wire: &Wire<'_>,
    database: &mut PgConnection,
    progress: &Progress,
) -> Result<Clip> {
    let step = progress.step("film");
    let studio = Studio::new("demo");
    let id = format!("{}film", cast.prefix);
    let content = studio.make(FILM, "film.mp4");
    let sha256 = sha256(database, &content).await?;
    let key = format!("assets/{id}/{}/original.mp4", &sha256[..12]);
    bucket.put(&key, &content).await?;
    sqlx::query(
        "WITH film AS (
             INSERT INTO ip_assets (id, title, type, storage_key, file_size, mime_type, content_sha256, created_by, status, scan_status,
                                    upload_confirmed_at, scan_completed_at)
             VALUES ($1, 'Night Garden, the film', 'VIDEO', $2, $3, $4, $5, $6, 'PROCESSING', 'CLEAN', now(), now())
             RETURNING id
         )
         INSERT INTO asset_processing_steps (asset_id, step, enqueued_at) SELECT id, 'preview', now() FROM film",
    )
    .bind(&id)
    .bind(&key)
    .bind(i64::try_from(content.len())?)
    .bind(MIME_TYPE)
    .bind(&sha256)
    .bind(cast.person(1))
    .execute(&mut *database)
    .await?;
    let film = bucket.file(&key, &studio, database).await?;
    step.done(&format!("{} in the bucket", film.what));

    let step = progress.step("clip");
    let message = Message {
        body: json!({ "assetId": id }).to_string(),
        run_key: id.clone(),
    };
    wire.send(JOB, &[message]).await?;
    let end = end(database, &id).await?;
    let row: Option<Row> = sqlx::query_as(
        "SELECT storage_key, file_size, checksum_sha256::text AS sha256 FROM asset_variants
         WHERE asset_id = $1 AND kind = 'preview' AND superseded_at IS NULL",
    )
    .bind(&id)
    .fetch_optional(&mut *database)
    .await?;
    let Some(row) = row else {
        bail!("the film has no preview: its run is {end}{}", hints());
    };
    let preview = bucket.file(&row.storage_key, &studio, database).await?;
    step.done(&format!("{} came back", preview.what));
    Ok(Clip { film, preview, row })
}

/// Waits for the end of a run: what became of it, and why.
async fn end(database: &mut PgConnection, run_key: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let run: Option<(String, String)> = sqlx::query_as(
            "SELECT status, concat_ws(': ', status, coalesce(reason, error, report ->> 'detail'))
             FROM job_runs WHERE job = $1 AND run_key = $2",
        )
        .bind(JOB)
        .bind(run_key)
        .fetch_optional(&mut *database)
        .await
        .context("could not see how far it is")?;
        let (status, end) = run.unwrap_or_else(|| ("waiting".to_owned(), "waiting".to_owned()));
        if ["done", "skipped", "dead"].contains(&status.as_str()) {
            return Ok(end);
        }
        if begun.elapsed() > PATIENCE {
            bail!(
                "after {} s the film has no preview yet: its run is {end}{}",
                PATIENCE.as_secs(),
                hints()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn hints() -> String {
    format!(
        "

  cargo jobs status                            is every function's event source Enabled, does a queue grow?
  cargo jobs runs {JOB}     what became of the run, and why
  cargo jobs logs {JOB}     what the function said"
    )
}

/// In hex, as keys and rows have it.
async fn sha256(database: &mut PgConnection, content: &[u8]) -> Result<String> {
    let hash = sqlx::query_scalar("SELECT encode(sha256($1), 'hex')").bind(content);
    Ok(hash.fetch_one(database).await?)
}

/// Seconds, pixels and codecs, of what ffprobe says.
fn what(probe: &Value) -> String {
    let streams = || probe["streams"].as_array().into_iter().flatten();
    let seconds = probe["format"]["duration"].as_str().unwrap_or("?");
    let seconds = seconds
        .parse::<f64>()
        .map_or_else(|_| seconds.to_owned(), |seconds| format!("{seconds:.1}"));
    let size = streams().find_map(|stream| Some((stream["width"].as_u64()?, stream["height"].as_u64()?)));
    let pixels = size.map_or_else(String::new, |(width, height)| format!("{width}x{height}, "));
    let codecs: Vec<_> = streams().filter_map(|stream| stream["codec_name"].as_str()).collect();
    format!("{seconds} s, {pixels}{}", codecs.join(" and "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::commands::demo) fn clip() -> Clip {
        let file = |key: &str, bytes, what: &str| File {
            key: key.to_owned(),
            mime_type: MIME_TYPE.to_owned(),
            bytes,
            sha256: "ab".repeat(32),
            what: what.to_owned(),
        };
        let preview = "derived/demo-film/0123456789ab-v1/preview.mp4";
        Clip {
            film: file(
                "assets/demo-film/0123456789ab/original.mp4",
                5_000_000,
                "14.0 s, 1280x720, h264 and aac",
            ),
            preview: file(preview, 1_200_000, "10.0 s, 1280x720, h264 and aac"),
            row: Row {
                storage_key: preview.to_owned(),
                file_size: 1_200_000,
                sha256: Some("ab".repeat(32)),
            },
        }
    }

    #[test]
    fn a_clip_of_another_size_or_hash_than_its_row_fails_the_check() {
        assert!(clip().check().holds);
        let mut longer = clip();
        longer.preview.bytes += 1;
        let mut other = clip();
        other.preview.sha256 = "cd".repeat(32);
        let mut unknown = clip();
        unknown.row.sha256 = None;
        for clip in [longer, other, unknown] {
            assert!(!clip.check().holds, "{clip:?}");
        }
    }

    #[test]
    fn a_file_is_told_in_seconds_pixels_and_codecs() {
        let probe = json!({
            "format": { "duration": "14.021" },
            "streams": [{ "codec_name": "h264", "width": 1280, "height": 720 }, { "codec_name": "aac" }],
        });
        assert_eq!(what(&probe), "14.0 s, 1280x720, h264 and aac");
        let sound = json!({ "format": {}, "streams": [{ "codec_name": "mp3" }] });
        assert_eq!(what(&sound), "? s, mp3");
    }
}
