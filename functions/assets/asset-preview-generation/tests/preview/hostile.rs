//! Files that mean harm: each ends with its failure, and takes nothing along.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use testkit::World;
use testkit::media::Studio;
use testkit::world::Job;

use crate::{JOB, complaint, given, made, preview, step, world};

/// The step has failed for good, the message is settled, and nothing is left of it anywhere.
async fn fails(world: &World, id: &str, code: &str) {
    preview(world, id).await;
    assert_eq!(
        step(world, id).await,
        format!("FAILED {code}"),
        "{id}: {}",
        complaint(world, id).await
    );
    assert!(world.dead_letters(JOB).is_empty(), "{id}");
    assert_eq!(made(world), [""; 0], "{id}");
    let complaint = complaint(world, id).await;
    assert!(
        complaint.len() <= 500 && !complaint.contains("/tmp"),
        "{id}: {complaint}"
    );
    let children = children(world).await;
    assert!(children.is_empty(), "{id}: {children:?}");
}

/// What the function has started and not ended.
async fn children(world: &World) -> Vec<String> {
    let pids = world.function(JOB).await.pids();
    let task = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    pids.iter()
        .map(task)
        .filter(|children| !children.trim().is_empty())
        .collect()
}

fn workspaces(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn hostile_files_end_with_their_failures_and_leave_nothing() {
    let world = world("preview_hostile").await;
    let studio = Studio::new("hostile");
    let tmp = studio.folder().join("tmp");
    std::fs::create_dir(&tmp).expect("room");
    world.set("TMPDIR", tmp.display().to_string());
    let film = studio.make("-f lavfi -i testsrc2=s=128x96:r=25:d=5 -c:v libx264", "film.mp4");

    let other = studio.folder().join("film.mp4");
    let playlist = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:5,\nfile://{}\n#EXT-X-ENDLIST\n",
        other.display()
    );
    given(&world, "playlist", "VIDEO", "video/mp4", &playlist).await;
    fails(&world, "playlist", "CORRUPT_MEDIA").await;
    given(
        &world,
        "list",
        "VIDEO",
        "video/mp4",
        format!("ffconcat version 1.0\nfile {}\n", other.display()),
    )
    .await;
    fails(&world, "list", "CORRUPT_MEDIA").await;
    given(&world, "empty", "VIDEO", "video/mp4", "").await;
    fails(&world, "empty", "EMPTY_FILE").await;
    given(&world, "truncated", "VIDEO", "video/mp4", &film[..film.len() / 2]).await;
    fails(&world, "truncated", "CORRUPT_MEDIA").await;
    let bomb = bomb();
    given(&world, "bomb", "VIDEO", "video/quicktime", bomb).await;
    fails(&world, "bomb", "CORRUPT_MEDIA").await;
    given(&world, "noise", "AUDIO", "audio/mpeg", vec![0x5a; 100_000]).await;
    fails(&world, "noise", "CORRUPT_MEDIA").await;
    given(&world, "unknown", "VIDEO", "application/x-shockwave-flash", &film).await;
    fails(&world, "unknown", "CORRUPT_MEDIA").await;
    let small = studio.make(
        "-f lavfi -i testsrc2=s=128x96:r=5:d=1 -c:v mjpeg -pix_fmt yuvj420p",
        "small.mov",
    );
    given(&world, "huge", "VIDEO", "video/quicktime", resized(&small, 30_000)).await;
    fails(&world, "huge", "IMAGE_TOO_LARGE").await;
    let matroska = studio.make("-i film.mp4 -c copy", "film.mkv");
    given(&world, "endless", "VIDEO", "video/x-matroska", endless(&matroska)).await;
    fails(&world, "endless", "BAD_OUTPUT").await;

    // Nothing in the layer decodes AV1.
    let new = studio.make(
        "-f lavfi -i testsrc2=s=128x96:r=25:d=1 -c:v libsvtav1 -svtav1-params preset=12",
        "av1.mp4",
    );
    given(&world, "av1", "VIDEO", "video/mp4", new).await;
    fails(&world, "av1", "CORRUPT_MEDIA").await;
    let silent = studio.make("-f lavfi -i sine=440:d=2 -c:a aac", "sound.mp4");
    given(&world, "no-picture", "VIDEO", "video/mp4", silent).await;
    fails(&world, "no-picture", "NO_STREAM").await;
    given(&world, "no-sound", "AUDIO", "audio/mp4", &film).await;
    fails(&world, "no-sound", "NO_STREAM").await;

    assert_eq!(workspaces(&tmp), BTreeSet::new(), "/tmp is as it was");
}

#[tokio::test]
async fn a_film_that_takes_too_long_is_given_up_at_the_second_try() {
    let world = world("preview_endless_work").await;
    let studio = Studio::new("work");
    // Within all limits of size, and minutes of work: 480 large pictures a second.
    studio.make(
        "-f lavfi -i color=red:s=7680x4320:r=30:d=0.2 -c:v libx264 -preset ultrafast",
        "short.mp4",
    );
    let film = studio.make("-stream_loop 800 -itsscale 0.0625 -i short.mp4 -c copy", "slow.mp4");
    given(&world, "slow", "VIDEO", "video/mp4", film).await;
    let timeout = Duration::from_secs(41);
    world.define(
        JOB,
        Job {
            timeout,
            ..Job::of_catalog(JOB)
        },
    );

    world.send(JOB, [json!({"assetId": "slow"})]);
    world.pump(JOB).await;
    assert_eq!(step(&world, "slow").await, "PENDING TOOL_TIMEOUT");
    fails_again(&world).await;
}

async fn fails_again(world: &World) {
    world.drain(JOB).await;
    assert_eq!(step(world, "slow").await, "FAILED TOOL_TIMEOUT");
    assert!(children(world).await.is_empty());
    assert!(world.dead_letters(JOB).is_empty());
    assert_eq!(
        world
            .count("SELECT attempts::bigint FROM asset_processing_steps WHERE asset_id = 'slow'")
            .await,
        2
    );
}

/// A ZIP of one file that is a thousand times as large.
fn bomb() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("film.mov", zip::write::SimpleFileOptions::default())
        .expect("an entry");
    std::io::Write::write_all(&mut zip, &vec![0; 100 << 20]).expect("content");
    zip.finish().expect("a ZIP").into_inner()
}

/// A film of JPEGs whose headers, and that of the container, tell of larger pictures than there are.
fn resized(film: &[u8], side: u16) -> Vec<u8> {
    let mut film = film.to_vec();
    let side = side.to_be_bytes();
    // Of the first sample entry; its name comes 16 bytes later, and the width 28 after that.
    let entry = find(&film, b"stsd").expect("a sample entry") + 16 + 28;
    film[entry..entry + 4].copy_from_slice(&[side, side].concat());
    let mut from = 0;
    while let Some(found) = find(&film[from..], &[0xff, 0xc0, 0x00, 0x11, 0x08]) {
        from += found + 5;
        film[from..from + 4].copy_from_slice(&[side, side].concat());
    }
    film
}

/// A film that says of itself that it lasts for thirty years.
fn endless(film: &[u8]) -> Vec<u8> {
    let mut film = film.to_vec();
    // Matroska's `Duration`, a number of eight bytes.
    let duration = find(&film, &[0x44, 0x89, 0x88]).expect("a duration") + 3;
    film[duration..duration + 8].copy_from_slice(&1e12_f64.to_be_bytes());
    film
}

fn find(content: &[u8], mark: &[u8]) -> Option<usize> {
    content.windows(mark.len()).position(|window| window == mark)
}
