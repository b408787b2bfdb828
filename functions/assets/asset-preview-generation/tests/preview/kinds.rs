//! Every container and codec that may be uploaded.

use testkit::media::Studio;

use crate::{Probed, clip, given, preview, step, world};

const PICTURE: &str = "-f lavfi -i testsrc2=s=128x96:r=25:d=1 -f lavfi -i sine=440:d=1";
const SOUND: &str = "-f lavfi -i sine=440:d=2:r=48000";

#[tokio::test]
async fn every_film_that_may_be_uploaded_has_a_clip() {
    let world = world("preview_films").await;
    let studio = Studio::new("films");
    for (id, mime_type, codecs, file) in [
        ("mp4-h264-aac", "video/mp4", "-c:v libx264 -c:a aac", "a.mp4"),
        (
            "mp4-hevc-mp3",
            "video/mp4",
            "-c:v libx265 -x265-params log-level=error -c:a libmp3lame",
            "a.mp4",
        ),
        ("mp4-mpeg4-none", "video/mp4", "-c:v mpeg4 -an", "a.mp4"),
        (
            "mov-prores-pcm",
            "video/quicktime",
            "-c:v prores -c:a pcm_s16le",
            "a.mov",
        ),
        (
            "mov-mjpeg-alac",
            "video/quicktime",
            "-c:v mjpeg -pix_fmt yuvj420p -c:a alac",
            "a.mov",
        ),
        (
            "avi-mpeg4-mp3",
            "video/x-msvideo",
            "-c:v mpeg4 -c:a libmp3lame",
            "a.avi",
        ),
        (
            "avi-mjpeg-pcm",
            "video/x-msvideo",
            "-c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16le",
            "a.avi",
        ),
        ("mkv-h264-flac", "video/x-matroska", "-c:v libx264 -c:a flac", "a.mkv"),
        ("mkv-mpeg2-ac3", "video/x-matroska", "-c:v mpeg2video -c:a ac3", "a.mkv"),
        (
            "webm-vp8-vorbis",
            "video/webm",
            "-c:v libvpx -deadline realtime -c:a vorbis -strict -2 -ac 2",
            "a.webm",
        ),
        (
            "webm-vp9-opus",
            "video/webm",
            "-c:v libvpx-vp9 -deadline realtime -c:a libopus",
            "a.webm",
        ),
    ] {
        given(
            &world,
            id,
            "VIDEO",
            mime_type,
            studio.make(&format!("{PICTURE} {codecs}"), file),
        )
        .await;
        preview(&world, id).await;
        assert_eq!(step(&world, id).await, "SUCCEEDED", "{id}");
        let probed = Probed::of(&studio, &clip(&world, id).await, "clip.mp4");
        let expected: &[&str] = if id.ends_with("none") {
            &["h264"]
        } else {
            &["h264", "aac"]
        };
        assert_eq!((probed.codecs(), probed.size()), (expected.to_vec(), (128, 96)), "{id}");
    }
}

#[tokio::test]
async fn every_sound_that_may_be_uploaded_has_a_clip() {
    let world = world("preview_sounds").await;
    let studio = Studio::new("sounds");
    for (id, mime_type, codecs, file) in [
        ("mp3-mono", "audio/mpeg", "-c:a libmp3lame -ac 1", "a.mp3"),
        ("mp3-vbr", "audio/mpeg", "-c:a libmp3lame -q:a 4", "a.mp3"),
        ("wav-96k", "audio/wav", "-c:a pcm_s24le -ar 96000 -ac 2", "a.wav"),
        ("wav-float", "audio/wav", "-c:a pcm_f32le", "a.wav"),
        ("wav-six-channels", "audio/wav", "-c:a pcm_s16le -ac 6", "a.wav"),
        ("ogg-vorbis", "audio/ogg", "-c:a vorbis -strict -2 -ac 2", "a.ogg"),
        ("ogg-opus", "audio/ogg", "-c:a libopus", "a.ogg"),
        ("ogg-flac", "audio/ogg", "-c:a flac", "a.ogg"),
        ("aac", "audio/aac", "-c:a aac", "a.aac"),
        ("m4a", "audio/mp4", "-c:a aac", "a.m4a"),
    ] {
        given(
            &world,
            id,
            "AUDIO",
            mime_type,
            studio.make(&format!("{SOUND} {codecs}"), file),
        )
        .await;
        preview(&world, id).await;
        assert_eq!(step(&world, id).await, "SUCCEEDED", "{id}");
        let probed = Probed::of(&studio, &clip(&world, id).await, "clip.mp3");
        let sound = probed.stream("audio");
        assert_eq!(
            (probed.codecs(), &sound["sample_rate"], &sound["channels"]),
            (vec!["mp3"], &"44100".into(), &2.into()),
            "{id}"
        );
        assert!((probed.seconds() - 2.0).abs() < 0.2, "{id}: {}", probed.seconds());
    }
}
