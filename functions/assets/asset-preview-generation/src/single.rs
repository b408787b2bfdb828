//! One asset.

use std::path::{Path, PathBuf};
use std::time::Duration;

use assets::{Asset, Claim, Ended, Step, StepKind, Stop, Variant};
use jobs::ProcessAsset;
use media::{Container, Fault, Tools, WAVEFORM_VERSION, Workspace};
use runtime::{Failure, Outcome, Run, done, skipped};
use serde_json::{Value, json};
use services::storage::Content;
use tokio::time::timeout;

use crate::VERSION;

const PREVIEW: StepKind = StepKind {
    step: "preview",
    of: &["VIDEO", "AUDIO"],
};
/// ffmpeg gets no longer (spec: assets 0.8) …
const ENCODING: Duration = Duration::from_secs(300);
/// … and leaves so much of the function's time for what follows.
const STORING: Duration = Duration::from_secs(30);
/// What is left for the database at the end.
const ENDING: Duration = Duration::from_secs(10);
/// A picture beside the sound is worth no longer wait.
const DRAWING: Duration = Duration::from_secs(60);

/// What was made, stored already.
struct Made {
    variants: Vec<Variant>,
    report: Value,
}

pub(crate) async fn preview(tools: &Tools, message: &ProcessAsset, run: &Run) -> Outcome {
    let step = match Step::begin(run, PREVIEW, "", message).await? {
        Claim::Claimed(step) => step,
        Claim::Settled(outcome) => return outcome,
    };
    // So that there is time to write down that there was none.
    let time = run.context().time_left().saturating_sub(ENDING);
    let made = match timeout(time, make(tools, &step.asset, run)).await {
        Ok(made) => made,
        Err(_) => Err(Stop::from(Failure::Retry {
            error: "it took too long".into(),
            after: None,
        })),
    };
    match made {
        Ok(made) => match record(&step, made, run).await {
            Err(failure) => step.stop(run, failure.into()).await,
            settled => settled,
        },
        Err(stop) => step.stop(run, stop).await,
    }
}

/// Fetches, cuts and stores.
async fn make(tools: &Tools, asset: &Asset, run: &Run) -> Result<Made, Stop> {
    let Some(container) = Container::of_mime_type(&asset.mime_type) else {
        return Err(blame(
            Fault::CorruptMedia,
            format!("nothing here opens {}", asset.mime_type),
        ));
    };
    let workspace = Workspace::new().map_err(stop)?;
    asset.fetch(run, &workspace.file(container.file_name())).await?;
    let source = media::probe(tools, workspace.path(), container.file_name(), container);
    let source = source.await.map_err(stop)?;
    let time = run.context().time_left().saturating_sub(STORING).min(ENCODING);
    let is_video = asset.kind == "VIDEO";
    let clip = if is_video {
        media::video(tools, &workspace, container, &source, time).await
    } else {
        media::sound(tools, &workspace, container, &source, time).await
    };
    let clip = clip.map_err(stop)?;
    let (file, mime_type) = if is_video {
        ("preview.mp4", "video/mp4")
    } else {
        ("preview.mp3", "audio/mpeg")
    };
    let variant = Variant {
        kind: "preview",
        name: "preview",
        key: asset.derived(VERSION, file)?,
        content: content(&clip.file)?,
        mime_type,
        version: VERSION,
        size: clip.size,
        duration: Some(clip.duration),
        bitrate: clip.bitrate,
    };
    let mut report = json!({
        "preview": variant.key.as_str(),
        "startMs": clip.start.as_millis() as u64,
        "durationMs": clip.duration.as_millis() as u64,
        "bytes": variant.content.bytes,
    });
    if let Some((width, height)) = clip.size {
        report["width"] = width.into();
        report["height"] = height.into();
    }
    let mut made = vec![(variant, clip.file)];
    if !is_video {
        match draw(tools, asset, &workspace, container, &source, run).await {
            Ok(waveform) => {
                report["waveform"] = waveform.0.key.as_str().into();
                made.push(waveform);
            }
            Err(stop @ Stop::Unusable { is_retryable: true, .. }) if !run.is_last_attempt() => return Err(stop),
            // One can hear it all the same.
            Err(Stop::Unusable { code, detail, .. }) => {
                tracing::warn!(asset_id = asset.id, code, detail, "a sound has no waveform");
                report["warnings"] = json!(["WAVEFORM_FAILED"]);
            }
            Err(stop) => return Err(stop),
        }
    }
    // When all of it is there.
    let mut variants = Vec::with_capacity(made.len());
    for (variant, file) in made {
        variant.store(run.context().storage()?, asset, &file).await?;
        variants.push(variant);
    }
    Ok(Made { variants, report })
}

/// The waveform of the whole sound.
async fn draw(
    tools: &Tools,
    asset: &Asset,
    workspace: &Workspace,
    container: Container,
    source: &media::Probe,
    run: &Run,
) -> Result<(Variant, PathBuf), Stop> {
    let time = run.context().time_left().saturating_sub(STORING).min(DRAWING);
    let picture = media::waveform(tools, workspace, container, source, time)
        .await
        .map_err(stop)?;
    let waveform = Variant {
        kind: "waveform",
        name: "waveform",
        key: asset.derived(WAVEFORM_VERSION, "waveform.png")?,
        content: content(&picture.file)?,
        mime_type: "image/png",
        version: WAVEFORM_VERSION,
        size: Some((picture.width, picture.height)),
        duration: None,
        bitrate: None,
    };
    Ok((waveform, picture.file))
}

/// Everything of the database in one transaction, while the step is ours.
async fn record(step: &Step, made: Made, run: &Run) -> Result<runtime::Success, Failure> {
    let asset = &step.asset;
    let mut tx = run.begin().await?;
    if let Ended::Discarded(reason) = step.succeed(&mut tx, made.report.clone()).await? {
        tx.commit().await?;
        return skipped(reason);
    }
    for variant in &made.variants {
        variant.record(&mut tx, asset).await?;
    }
    if let Some(preview) = made.variants.first() {
        sqlx::query!(
            "UPDATE ip_assets SET preview_key = $2 WHERE id = $1 AND preview_key IS DISTINCT FROM $2",
            asset.id,
            preview.key.as_str(),
        )
        .execute(&mut *tx)
        .await?;
        // A preview that is made again is the same one.
        sqlx::query!(
            "INSERT INTO events (occurred_at, source, event_type, ip_asset_id, props, idempotency_key)
             VALUES (now(), 'system', 'asset_preview_generated', $1, $2, 'asset_preview_generated:' || $3)
             ON CONFLICT (idempotency_key) DO NOTHING",
            asset.id,
            made.report,
            preview.key.as_str(),
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    done(made.report)
}

fn content(file: &Path) -> Result<Content, Stop> {
    Content::of(file).map_err(|error| {
        Stop::from(Failure::Retry {
            error: format!("what was made cannot be read: {error}"),
            after: None,
        })
    })
}

fn blame(fault: Fault, detail: String) -> Stop {
    Stop::Unusable {
        code: fault.code(),
        detail,
        is_retryable: fault.is_retryable(),
    }
}

fn stop(error: media::Error) -> Stop {
    match error {
        media::Error::File { fault, detail } => blame(fault, detail),
        media::Error::Machine(error) => Failure::Retry { error, after: None }.into(),
    }
}
