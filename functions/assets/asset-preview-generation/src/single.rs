//! One asset.

use std::time::Duration;

use assets::{Asset, Begun, Kind, Step, Stop, Variant};
use jobs::ProcessAsset;
use media::{Container, Fault, Tools, Workspace};
use runtime::{Failure, Outcome, Run, done, skipped};
use serde_json::{Value, json};
use services::storage::Content;

use crate::VERSION;

const PREVIEW: Kind = Kind {
    step: "preview",
    of: &["VIDEO", "AUDIO"],
};
/// ffmpeg gets no longer (spec: assets 0.8) …
const ENCODING: Duration = Duration::from_secs(300);
/// … and leaves so much of the function's time for what follows.
const STORING: Duration = Duration::from_secs(30);
/// A picture beside the sound is worth no longer wait.
const DRAWING: Duration = Duration::from_secs(60);

/// What was made, stored already.
struct Made {
    variants: Vec<Variant>,
    report: Value,
}

pub(crate) async fn preview(tools: &Tools, message: &ProcessAsset, run: &Run) -> Outcome {
    let step = match Step::begin(run, PREVIEW, "", message).await? {
        Begun::Claimed(step) => step,
        Begun::Settled(outcome) => return outcome,
    };
    match make(tools, &step.asset, run).await {
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
    let storage = run.context().storage()?;
    variant.store(storage, asset, &clip.file).await?;
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
    let mut variants = vec![variant];
    if !is_video {
        match draw(tools, asset, &workspace, container, &source, run).await {
            Ok(waveform) => {
                report["waveform"] = waveform.key.as_str().into();
                variants.push(waveform);
            }
            // One can hear it all the same.
            Err(Stop::Unusable { code, detail, .. }) => {
                tracing::warn!(asset_id = asset.id, code, detail, "a sound has no waveform");
                report["warnings"] = json!(["WAVEFORM_FAILED"]);
            }
            Err(stop) => return Err(stop),
        }
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
) -> Result<Variant, Stop> {
    let time = run.context().time_left().saturating_sub(STORING).min(DRAWING);
    let picture = media::waveform(tools, workspace, container, source, time)
        .await
        .map_err(stop)?;
    let waveform = Variant {
        kind: "waveform",
        name: "waveform",
        key: asset.derived(VERSION, "waveform.png")?,
        content: content(&picture.file)?,
        mime_type: "image/png",
        version: VERSION,
        size: Some((picture.width, picture.height)),
        duration: None,
        bitrate: None,
    };
    waveform.store(run.context().storage()?, asset, &picture.file).await?;
    Ok(waveform)
}

/// Everything of the database in one transaction, while the step is ours.
async fn record(step: &Step, made: Made, run: &Run) -> Result<runtime::Success, Failure> {
    let asset = &step.asset;
    let mut tx = run.begin().await?;
    if !step.succeed(&mut tx, made.report.clone()).await? {
        return skipped("LEASE_LOST");
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

fn content(file: &std::path::Path) -> Result<Content, Stop> {
    Content::of(file).map_err(|error| {
        Stop::Failed(Failure::Retry {
            error: format!("what was made cannot be read: {error}"),
            after: None,
        })
    })
}

fn blame(fault: Fault, detail: String) -> Stop {
    Stop::Unusable {
        code: fault.code(),
        detail,
        may_pass: fault.may_pass(),
    }
}

fn stop(error: media::Error) -> Stop {
    match error {
        media::Error::File { fault, detail } => blame(fault, detail),
        media::Error::Machine(error) => Stop::Failed(Failure::Retry { error, after: None }),
    }
}
