//! What a clip is, by the rules of the spec.

use serde_json::json;
use testkit::media::Studio;

use crate::{JOB, Probed, clip, given, made, preview, row, step, world};

#[tokio::test]
async fn a_film_becomes_ten_seconds_of_720p() {
    let world = world("preview_film").await;
    let studio = Studio::new("film");
    let film = "-f lavfi -i testsrc2=s=1920x1080:r=30:d=25 -f lavfi -i sine=440:d=25 -c:v libx264 -preset ultrafast -b:v 20M -c:a aac";
    given(&world, "film", "VIDEO", "video/mp4", studio.make(film, "film.mp4")).await;

    preview(&world, "film").await;

    assert_eq!(step(&world, "film").await, "SUCCEEDED");
    let object = clip(&world, "film").await;
    let probed = Probed::of(&studio, &object, "clip.mp4");
    assert_eq!(probed.size(), (1280, 720));
    assert!((probed.seconds() - 10.0).abs() <= 0.1, "{}", probed.seconds());
    assert_eq!(probed.codecs(), ["h264", "aac"]);
    assert_eq!(probed.stream("audio")["channels"], 2);
    assert!(
        (1_200_000..1_600_000).contains(&object.body.len()),
        "{}",
        object.body.len()
    );
    let (index, content) = (position(&object.body, b"moov"), position(&object.body, b"mdat"));
    assert!(index < content, "it plays before it is there");
    // The row says what was measured.
    let row = row(&world, "film").await;
    assert_eq!((&row["width"], &row["height"]), (&json!(1280), &json!(720)));
    assert_eq!(row["file_size"], object.body.len());
    assert_eq!(row["checksum_sha256"], crate::sha256(&world, &object.body).await);
    assert_eq!(row["mime_type"], "video/mp4");
    assert_eq!(object.header("content-type"), Some("video/mp4"));
    assert_eq!(
        object.header("cache-control"),
        Some("private, max-age=2592000, immutable")
    );
    assert_eq!(object.header("x-amz-meta-asset-id"), Some("film"));
    assert_eq!(object.header("x-amz-meta-variant"), Some("preview"));
    let told =
        "SELECT count(*) FROM ip_assets a JOIN asset_variants v ON v.asset_id = a.id AND v.storage_key = a.preview_key";
    assert_eq!(world.count(told).await, 1);
    let events = "SELECT count(*) FROM events WHERE event_type = 'asset_preview_generated' AND source = 'system' AND ip_asset_id = 'film'";
    assert_eq!(world.count(events).await, 1);
}

#[tokio::test]
async fn a_clip_begins_at_a_tenth_of_the_film() {
    let world = world("preview_start").await;
    let studio = Studio::new("start");
    // Brighter by eight every second.
    let film = studio.make(
        "-f lavfi -i nullsrc=s=64x48:r=10:d=25 -vf geq=lum=16+8*floor(T):cb=128:cr=128 -c:v libx264 -g 100",
        "film.mp4",
    );
    given(&world, "film", "VIDEO", "video/mp4", film).await;

    preview(&world, "film").await;

    let object = clip(&world, "film").await;
    // At 2.5 and 7.5 s of the film: 16 and 56 above black, in the range of screens.
    for (filter, expected) in [("", 19), ("trim=start=5,", 65)] {
        let [red, ..] = studio.colour(&object.body, "clip.mp4", filter);
        assert!(red.abs_diff(expected) < 5, "{filter}: {red}");
    }
}

#[tokio::test]
async fn a_picture_with_music_and_a_show_of_slides_are_films_too() {
    let world = world("preview_slides").await;
    let studio = Studio::new("slides");
    let music = "-f lavfi -i sine=440:d=60 -c:a aac";
    for (id, arguments) in [
        (
            "still",
            format!("-f lavfi -i testsrc2=s=64x48:r=25:d=0.04 {music} -c:v libx264"),
        ),
        (
            "slides",
            format!("-f lavfi -i testsrc2=s=64x48:r=1/15:d=60 {music} -c:v libx264"),
        ),
        (
            "third",
            "-f lavfi -i testsrc2=s=64x48:r=1/3:d=60 -c:v libx264".to_owned(),
        ),
        (
            "short-sound",
            "-f lavfi -i testsrc2=s=64x48:r=10:d=60 -f lavfi -i sine=440:d=3 -c:v libx264 -c:a aac".to_owned(),
        ),
    ] {
        let film = studio.make(&arguments, &format!("{id}.mkv"));
        given(&world, id, "VIDEO", "video/x-matroska", film).await;
        preview(&world, id).await;
        assert_eq!(
            step(&world, id).await,
            "SUCCEEDED",
            "{id}: {}",
            crate::complaint(&world, id).await
        );
        let probed = Probed::of(&studio, &clip(&world, id).await, "clip.mp4");
        assert!((probed.seconds() - 10.0).abs() < 0.5, "{id}: {}", probed.seconds());
    }
}

#[tokio::test]
async fn a_sound_whose_length_is_a_guess_has_its_clip_all_the_same() {
    let world = world("preview_guess").await;
    let studio = Studio::new("guess");
    for (id, mime_type, volume, codec, file) in [
        ("silent-start", "audio/aac", "gte(t,10)", "-c:a aac -b:a 128k", "a.aac"),
        ("silent-end", "audio/aac", "lt(t,10)", "-c:a aac -b:a 128k", "b.aac"),
        (
            "silent-vbr",
            "audio/mpeg",
            "gte(t,10)",
            "-c:a libmp3lame -q:a 2 -write_xing 0",
            "c.mp3",
        ),
    ] {
        let noise =
            format!("-f lavfi -i aevalsrc={volume}*(random(0)-0.5):d=60:s=44100 {codec}").replace(",10)", "\\,10)");
        given(&world, id, "AUDIO", mime_type, studio.make(&noise, file)).await;
        preview(&world, id).await;
        assert_eq!(
            step(&world, id).await,
            "SUCCEEDED",
            "{id}: {}",
            crate::complaint(&world, id).await
        );
        let probed = Probed::of(&studio, &clip(&world, id).await, "clip.mp3");
        assert!((probed.seconds() - 30.0).abs() < 0.5, "{id}: {}", probed.seconds());
    }
}

#[tokio::test]
async fn a_short_portrait_without_sound_loses_half_its_pictures_one_pixel_and_its_place() {
    let world = world("preview_portrait").await;
    let studio = Studio::new("portrait");
    let film = "-f lavfi -i testsrc2=s=607x1081:r=60:d=4.3 -c:v libx264 -preset ultrafast -pix_fmt yuv444p \
                -metadata location=+48.8577+002.295/ -metadata title=Secret";
    given(
        &world,
        "portrait",
        "VIDEO",
        "video/mp4",
        studio.make(film, "portrait.mp4"),
    )
    .await;

    preview(&world, "portrait").await;

    let object = clip(&world, "portrait").await;
    let probed = Probed::of(&studio, &object, "clip.mp4");
    assert_eq!(probed.size(), (606, 1080));
    assert_eq!(probed.stream("video")["avg_frame_rate"], "30/1");
    assert_eq!(probed.codecs(), ["h264"]);
    assert!((probed.seconds() - 4.3).abs() < 0.1, "{}", probed.seconds());
    assert_eq!(row(&world, "portrait").await["duration_ms"], 4300);
    let told = format!("{:?}{:?}", probed.format, probed.streams);
    assert!(!told.contains("48.85") && !told.contains("Secret"), "{told}");
}

#[tokio::test]
async fn a_song_is_heard_from_its_first_fifth_and_seen_as_a_wave() {
    let world = world("preview_song").await;
    let studio = Studio::new("song");
    // Another pitch every second, and a picture of a cover.
    studio.make("-f lavfi -i color=red:s=300x300 -frames:v 1", "cover.jpg");
    let song = "-f lavfi -i aevalsrc=0.5*sin(2*PI*t*(200+100*floor(t))):d=90:s=44100 -i cover.jpg -map 0 -map 1 -c:v copy \
                -disposition:v attached_pic -c:a libmp3lame -b:a 192k -metadata title=Secret -metadata artist=Who";
    given(&world, "song", "AUDIO", "audio/mpeg", studio.make(song, "song.mp3")).await;

    preview(&world, "song").await;

    assert_eq!(step(&world, "song").await, "SUCCEEDED");
    let object = clip(&world, "song").await;
    let probed = Probed::of(&studio, &object, "clip.mp3");
    assert_eq!(probed.codecs(), ["mp3"], "no cover");
    assert!((probed.seconds() - 30.0).abs() <= 0.1, "{}", probed.seconds());
    assert!((475_000..487_000).contains(&object.body.len()), "{}", object.body.len());
    let sound = probed.stream("audio");
    assert_eq!(
        (&sound["sample_rate"], &sound["channels"], &sound["bit_rate"]),
        (&json!("44100"), &json!(2), &json!("128000"))
    );
    assert!(!format!("{:?}", probed.format).contains("Secret"));
    // Its second n sounds at 200 + 100 n Hz.
    for (at, expected) in [("0.3", 2000), ("5.3", 2500)] {
        let pitch = pitch(&studio, &object.body, at);
        assert!(pitch.abs_diff(expected) < 60, "{pitch} Hz at {at} s");
    }
    // It comes and goes softly.
    let loud = |from: &str| loudness(&studio, &object.body, from);
    let (begin, middle, end) = (loud("0"), loud("15"), loud("29.9"));
    assert!(begin < middle - 10.0 && end < middle - 10.0, "{begin} {middle} {end}");

    let waveform = world
        .storage
        .object(crate::BUCKET, &made(&world)[1])
        .expect("a picture");
    assert_eq!(waveform.header("content-type"), Some("image/png"));
    let mut picture = png::Decoder::new(std::io::Cursor::new(&waveform.body))
        .read_info()
        .expect("a PNG");
    assert_eq!((picture.info().width, picture.info().height), (1800, 280));
    let mut pixels = vec![0; picture.output_buffer_size().expect("a size")];
    picture.next_frame(&mut pixels).expect("a picture");
    let drawn = pixels.chunks(3).filter(|pixel| *pixel != [0xf3, 0xf4, 0xf6]).count();
    assert!(drawn * 100 > 1800 * 280, "{drawn} pixels are drawn");
    let rows = "SELECT count(*) FROM asset_variants WHERE kind = 'waveform' AND width = 1800 AND height = 280 AND superseded_at IS NULL";
    assert_eq!(world.count(rows).await, 1);
}

/// How often a second the sound goes up through zero, in a fifth of a second.
fn pitch(studio: &Studio, clip: &[u8], from: &str) -> u64 {
    let path = studio.folder().join("pitch.mp3");
    std::fs::write(&path, clip).expect("room");
    let output = std::process::Command::new(testkit::media::tool("ffmpeg"))
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(&path)
        .args(["-ss", from, "-t", "0.2", "-ac", "1", "-f", "s16le", "-"])
        .output()
        .expect("ffmpeg");
    let samples: Vec<_> = output
        .stdout
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let ups = samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
    ups as u64 * 44_100 / samples.len().max(1) as u64
}

/// The mean volume of a tenth of a second, in decibels.
fn loudness(studio: &Studio, clip: &[u8], from: &str) -> f64 {
    let path = studio.folder().join("loud.mp3");
    std::fs::write(&path, clip).expect("room");
    let output = std::process::Command::new(testkit::media::tool("ffmpeg"))
        .args(["-hide_banner", "-nostdin", "-ss", from, "-t", "0.1", "-i"])
        .arg(&path)
        .args(["-af", "volumedetect", "-f", "null", "-"])
        .output()
        .expect("ffmpeg");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let volume = said
        .split("mean_volume: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    volume
        .and_then(|volume| volume.parse().ok())
        .unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test]
async fn what_lies_on_its_side_is_set_upright() {
    let world = world("preview_rotated").await;
    let studio = Studio::new("rotated");
    let flat = "-f lavfi -i color=red:s=160x180:d=1 -f lavfi -i color=blue:s=160x180:d=1 -filter_complex [0][1]hstack -c:v libx264";
    studio.make(flat, "flat.mp4");
    let turned = studio.make("-display_rotation 90 -i flat.mp4 -c copy", "turned.mp4");
    given(&world, "turned", "VIDEO", "video/mp4", &turned).await;

    preview(&world, "turned").await;

    let object = clip(&world, "turned").await;
    let probed = Probed::of(&studio, &object, "clip.mp4");
    assert_eq!(probed.size(), (180, 320));
    assert!(
        !format!("{:?}", probed.streams).contains("rotation"),
        "it is upright, and need not be turned any more"
    );
    for half in ["crop=iw:ih/2:0:0,", "crop=iw:ih/2:0:ih/2,"] {
        let (source, made) = (
            studio.colour(&turned, "a.mp4", half),
            studio.colour(&object.body, "b.mp4", half),
        );
        assert!(
            source.iter().zip(made).all(|(a, b)| a.abs_diff(b) < 25),
            "{half}: {source:?} {made:?}"
        );
        assert!(source[0].abs_diff(source[2]) > 200, "{source:?}");
    }
}

#[tokio::test]
async fn bright_interlaced_and_oblong_pictures_become_ordinary_ones() {
    let world = world("preview_ordinary").await;
    let studio = Studio::new("ordinary");
    // Half as bright as the brightest that there can be: more than any ordinary screen shows.
    let hdr = "-f lavfi -i color=0x949494:s=320x180:r=25:d=1 -pix_fmt yuv420p10le -c:v libx265 \
               -x265-params log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc";
    let interlaced = "-f lavfi -i testsrc2=s=320x240:r=50:d=2 -vf interlace -c:v mpeg2video -b:v 8M -flags +ilme+ildct";
    let oblong = "-f lavfi -i testsrc2=s=360x288:r=25:d=1 -vf setsar=16/15 -c:v libx264";
    let variable =
        "-f lavfi -i testsrc2=s=320x180:r=50:d=2 -vf select=lt(n\\,10)+not(mod(n\\,7)) -fps_mode vfr -c:v libx264";
    for (id, mime_type, arguments, file) in [
        ("hdr", "video/x-matroska", hdr, "hdr.mkv"),
        ("interlaced", "video/x-matroska", interlaced, "interlaced.mkv"),
        ("oblong", "video/mp4", oblong, "oblong.mp4"),
        ("variable", "video/mp4", variable, "variable.mp4"),
    ] {
        given(&world, id, "VIDEO", mime_type, studio.make(arguments, file)).await;
        preview(&world, id).await;
        assert_eq!(step(&world, id).await, "SUCCEEDED", "{id}");
        let object = clip(&world, id).await;
        let probed = Probed::of(&studio, &object, "clip.mp4");
        let video = probed.stream("video");
        assert_eq!(video["pix_fmt"], "yuv420p", "{id}");
        assert_eq!(video["r_frame_rate"], video["avg_frame_rate"], "{id} is constant");
        match id {
            "hdr" => {
                assert_eq!(
                    (&video["color_transfer"], &video["color_primaries"]),
                    (&json!("bt709"), &json!("bt709"))
                );
                let colour = studio.colour(&object.body, "hdr.mp4", "");
                assert!(
                    colour.iter().all(|light| *light > 220),
                    "as bright as a screen can be: {colour:?}"
                );
            }
            "interlaced" => {
                let source = std::fs::read(studio.folder().join(file)).expect("the source");
                let (before, after) = (combed(&studio, &source), combed(&studio, &object.body));
                assert!(before > 40 && after * 5 < before, "{before} {after}");
            }
            "oblong" => assert_eq!(
                (probed.size(), &video["sample_aspect_ratio"]),
                ((384, 288), &json!("1:1"))
            ),
            _ => {}
        }
    }
}

/// How many pictures of a film are of two halves.
fn combed(studio: &Studio, film: &[u8]) -> u32 {
    let path = studio.folder().join("combed");
    std::fs::write(&path, film).expect("room");
    let output = std::process::Command::new(testkit::media::tool("ffmpeg"))
        .args(["-hide_banner", "-nostdin", "-i"])
        .arg(&path)
        .args(["-vf", "idet", "-f", "null", "-"])
        .output()
        .expect("ffmpeg");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = said.rsplit("Multi frame detection:").next().unwrap_or_default();
    let count = |name: &str| {
        let rest = words.split(name).nth(1).unwrap_or_default().trim_start();
        rest.split(' ').next().and_then(|count| count.parse::<u32>().ok())
    };
    count("TFF:")
        .zip(count("BFF:"))
        .map(|(a, b)| a + b)
        .unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test]
async fn a_still_picture_is_a_film_of_one_picture() {
    let world = world("preview_still").await;
    let studio = Studio::new("still");
    let still = studio.make("-f lavfi -i testsrc2=s=64x48 -frames:v 1 -c:v libx264", "still.mp4");
    given(&world, "still", "VIDEO", "video/mp4", still).await;

    preview(&world, "still").await;

    let probed = Probed::of(&studio, &clip(&world, "still").await, "clip.mp4");
    assert_eq!(probed.stream("video")["nb_read_frames"], "1");
}

#[tokio::test]
async fn what_is_neither_film_nor_sound_has_no_clip() {
    let world = world("preview_image").await;
    for kind in ["IMAGE", "DOCUMENT", "THREE_D", "OTHER"] {
        given(&world, kind, kind, "image/png", "a picture").await;
        preview(&world, kind).await;
        assert_eq!(step(&world, kind).await, "SKIPPED UNSUPPORTED_TYPE");
    }
    assert_eq!(made(&world), [""; 0]);
    assert!(
        !world.storage.calls().iter().any(|call| call.starts_with("GET")),
        "nothing was fetched"
    );
    assert!(world.dead_letters(JOB).is_empty());
}

fn position(content: &[u8], mark: &[u8]) -> usize {
    content
        .windows(mark.len())
        .position(|window| window == mark)
        .expect("the mark")
}
