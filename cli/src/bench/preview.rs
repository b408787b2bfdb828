use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::Storage;
use testkit::media::{Studio, tool};

use super::measure::mib;
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const JOB: &str = "asset-preview-generation";
const BUCKET: &str = "assets";

/// A sound of 100 MiB, less what a twentieth of a second has: more is refused.
const SOUND: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000 -t 546.1 -ac 2 -c:a pcm_s16le";
/// A minute whose picture takes time to decode and to encode, and little room.
const MINUTE: &str = "-f lavfi -i testsrc=size=1280x720:rate=25:duration=60
    -f lavfi -i sine=frequency=440:sample_rate=48000:duration=60
    -c:v libx264 -preset veryfast -crf 40 -pix_fmt yuv420p -c:a aac -b:a 16k -ac 1";
/// That minute a hundred and twenty times over, without encoding anything.
const TWO_HOURS: &str = "-stream_loop 119 -i minute.mp4 -c copy";

/// Of each film.
const RUNS: usize = 3;
/// Bytes that the function itself may take, of whatever original.
const MOST_MEMORY: u64 = 256_000_000;
/// How much longer the clip of two hours may take than that of a minute.
const MOST_RATIO: f64 = 1.5;

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    let studio = Studio::new("bench-preview");
    large(programs, &workshop, &studio).await?;
    long(programs, &workshop, &studio).await?;
    Ok(())
}

/// The largest original that is taken: does it go through the function part by part, or through its memory?
async fn large(programs: &Programs, workshop: &Workshop, studio: &Studio) -> Result<()> {
    let world = World::open(programs, workshop).await?;
    let size = world
        .give("sound", "AUDIO", "audio/wav", &studio.make(SOUND, "sound.wav"))
        .await?;
    let wall = world.preview("sound", 1, Duration::from_secs(30)).await?;
    let peak: u64 = world.line.lambda.memory().iter().map(|memory| memory.peak).sum();
    let row = [
        format!("{:.1}", mib(size)),
        format!("{:.2}", wall.as_secs_f64()),
        format!("{:.1}", peak as f64 / 1e6),
        format!("< {}", MOST_MEMORY / 1_000_000),
        verdict(peak < MOST_MEMORY),
    ];
    println!(
        "the largest original: a sound, to a clip and a waveform\n\n{}",
        table::render(["MiB", "wall s", "RSS MB", "goal", ""], &[row])
    );
    println!("RSS: the most of the function itself, its tools aside\n");
    Ok(())
}

/// A short and a long film with the same picture: is the clip sought, or everything before it decoded?
async fn long(programs: &Programs, workshop: &Workshop, studio: &Studio) -> Result<()> {
    let world = World::open(programs, workshop).await?;
    let mut films = Vec::new();
    for (id, what, arguments, file) in [
        ("minute", "a minute", MINUTE, "minute.mp4"),
        ("two-hours", "two hours", TWO_HOURS, "two-hours.mp4"),
    ] {
        let content = studio.make(arguments, file);
        let size = world.give(id, "VIDEO", "video/mp4", &content).await?;
        films.push((id, what, size, Vec::with_capacity(RUNS)));
    }
    // In turns, so that both meet the same machine.
    for round in 1..=RUNS {
        for (id, _, _, walls) in &mut films {
            walls.push(world.preview(id, round, Duration::from_secs(10)).await?);
        }
    }
    let medians: Vec<_> = films.iter().map(|(.., walls)| median(walls)).collect();
    let rows: Vec<_> = films
        .iter()
        .zip(&medians)
        .map(|((id, what, size, _), wall)| {
            let ratio = wall.as_secs_f64() / medians[0].as_secs_f64();
            // The minute is what the other one is measured by.
            let goal = (*id != "minute").then(|| (format!("≤ {MOST_RATIO}"), verdict(ratio <= MOST_RATIO)));
            let (goal, verdict) = goal.unwrap_or_default();
            [
                (*what).to_owned(),
                format!("{:.1}", mib(*size)),
                RUNS.to_string(),
                format!("{:.2}", wall.as_secs_f64()),
                format!("{ratio:.2}"),
                goal,
                verdict,
            ]
        })
        .collect();
    println!(
        "ten seconds of a film of\n\n{}",
        table::render(["", "MiB", "median of", "wall s", "× minute", "goal", ""], &rows)
    );
    println!("× minute: over the film of a minute, in turns with it and within this run");
    Ok(())
}

fn median(walls: &[Duration]) -> Duration {
    let mut walls = walls.to_vec();
    walls.sort_unstable();
    walls[walls.len() / 2]
}

fn verdict(is_met: bool) -> String {
    if is_met { "met" } else { "missed" }.to_owned()
}

/// The function with a database and an S3 of its own.
struct World {
    line: Line,
    pool: PgPool,
    storage: Storage,
}

impl World {
    async fn open(programs: &Programs, workshop: &Workshop) -> Result<Self> {
        let (pool, url) = workshop.database("bench_preview").await?;
        sqlx::raw_sql("INSERT INTO users (id) VALUES ('owner')")
            .execute(&pool)
            .await?;
        let storage = Storage::start().await?;
        let environment = [
            ("DATABASE_URL", url),
            ("AWS_ENDPOINT_URL_S3", storage.address().to_owned()),
            ("ASSETS_BUCKET", BUCKET.to_owned()),
            ("FFMPEG_BIN", tool("ffmpeg")),
            ("FFPROBE_BIN", tool("ffprobe")),
        ];
        let line = Line::start(programs, JOB, Feed::ONE, &environment).await?;
        Ok(Self { line, pool, storage })
    }

    /// An asset as the scan leaves it; its size in bytes.
    async fn give(&self, id: &str, kind: &str, mime_type: &str, content: &[u8]) -> Result<u64> {
        let sha256: String = sqlx::query_scalar("SELECT encode(sha256($1), 'hex')")
            .bind(content)
            .fetch_one(&self.pool)
            .await?;
        let key = format!("assets/{id}/{}/original.bin", &sha256[..12]);
        self.storage.put(BUCKET, &key, content.to_vec());
        sqlx::query(
            "INSERT INTO ip_assets (id, title, type, storage_key, file_size, mime_type, content_sha256, created_by, status, scan_status)
             VALUES ($1, 'An original', $2, $3, $4, $5, $6, 'owner', 'REVIEW', 'CLEAN')",
        )
        .bind(id)
        .bind(kind)
        .bind(&key)
        .bind(i64::try_from(content.len())?)
        .bind(mime_type)
        .bind(&sha256)
        .execute(&self.pool)
        .await?;
        Ok(content.len().try_into()?)
    }

    /// From the queue to the end of the run. The clip is made whatever is there.
    async fn preview(&self, id: &str, round: usize, length: Duration) -> Result<Duration> {
        let request = format!("{id}-{round}");
        let message = json!({"assetId": id, "force": true, "requestId": request});
        self.line.send(message.to_string(), Some(request.clone()));
        let wall = self.line.drain().await;
        // A benchmark that did the wrong thing fast is worth nothing.
        let report: Option<Value> =
            sqlx::query_scalar("SELECT report FROM job_runs WHERE job = $1 AND run_key = $2 AND status = 'done'")
                .bind(JOB)
                .bind(&request)
                .fetch_optional(&self.pool)
                .await?;
        let report = report.with_context(|| format!("the run {request} is not done"))?;
        let key = report["preview"].as_str().unwrap_or_default();
        ensure!(
            self.storage.object(BUCKET, key).is_some(),
            "there is no clip: the run reports {report}"
        );
        let made = Duration::from_millis(report["durationMs"].as_u64().unwrap_or_default());
        ensure!(made.abs_diff(length) < Duration::from_secs(1), "the clip has {made:?}");
        Ok(wall)
    }
}
