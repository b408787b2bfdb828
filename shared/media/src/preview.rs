//! Clips that let one see or hear what a file is (spec: assets, `asset-preview-generation`).

use std::path::PathBuf;
use std::time::Duration;

use crate::container::Container;
use crate::encode::Encoding;
use crate::error::{Error, Fault};
use crate::probe::{Audio, Probe, Video, probe};
use crate::tool::Tools;
use crate::workspace::Workspace;

/// Seconds of a video.
const VIDEO: f64 = 10.0;
/// Seconds of a sound.
const SOUND: f64 = 30.0;
/// A sound up to here is heard from its beginning.
const SHORT_SOUND: f64 = 60.0;
/// How far a clip may be from the length that it was to have: a picture or a packet more.
const TOLERANCE: f64 = 0.5;
/// How a sound comes and goes where it was cut, in seconds.
const FADE: f64 = 0.5;
/// The longer and the shorter side of a clip, at most.
const BOX: (u32, u32) = (1280, 720);
/// Pictures a second, at most.
const FRAME_RATE: (u32, u32) = (30, 1);

/// A clip, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Where it lies in the workspace.
    pub file: PathBuf,
    /// Where in the source it begins.
    pub start: Duration,
    /// How long it is.
    pub duration: Duration,
    /// Its pixels from left to right, and from top to bottom; `None` of a sound.
    pub size: Option<(u32, u32)>,
    /// Bits a second.
    pub bitrate: Option<u64>,
}

/// The part of a source that is taken, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    start: f64,
    /// What will come out; `None` when the source does not say how long it is.
    length: Option<f64>,
    most: f64,
    is_cut_at_end: bool,
}

/// Ten seconds of a video of the workspace: H.264 and AAC in an MP4 that plays while it loads.
///
/// # Errors
/// All of [`Fault`].
pub async fn video(
    tools: &Tools,
    workspace: &Workspace,
    container: Container,
    source: &Probe,
    time: Duration,
) -> Result<Clip, Error> {
    let no_stream = || Error::file(Fault::NoStream, "it has no video");
    let video = source.video.as_ref().ok_or_else(no_stream)?;
    let part = Part::of_video(source.duration);
    let (map, filters, most) = (format!("0:{}", video.index), filters(video), seconds(part.most));
    let mut output = vec!["-t", &most, "-map", &map, "-vf", &filters];
    output.extend([
        "-c:v", "libx264", "-preset", "fast", "-b:v", "1000k", "-maxrate", "1500k", "-bufsize", "2000k",
    ]);
    let sound = source.audio.as_ref().map(|sound| format!("0:{}", sound.index));
    if let Some(sound) = &sound {
        output.extend(["-map", sound, "-c:a", "aac", "-b:a", "128k", "-ac", "2", "-ar", "48000"]);
    }
    output.extend(["-movflags", "+faststart"]);
    let file = "preview.mp4";
    let encoding = Encoding {
        tools,
        workspace,
        container,
        start: part.start,
        output: &output,
        file,
        time,
    };
    encoding.run().await?;
    let made = measure(tools, workspace, file, Container::Mp4).await?;
    let size = match &made.video {
        Some(Video {
            codec, width, height, ..
        }) if codec == "h264" => (*width, *height),
        _ => return Err(Error::file(Fault::BadOutput, "no video came out")),
    };
    if sound.is_some() && made.audio.is_none() {
        return Err(Error::file(Fault::BadOutput, "its sound got lost"));
    }
    part.clip(workspace.file(file), &made, Some(size))
}

/// Thirty seconds of a sound of the workspace: an MP3 without a picture or a word.
///
/// # Errors
/// All of [`Fault`].
pub async fn sound(
    tools: &Tools,
    workspace: &Workspace,
    container: Container,
    source: &Probe,
    time: Duration,
) -> Result<Clip, Error> {
    let no_stream = || Error::file(Fault::NoStream, "it has no sound");
    let sound = source.audio.as_ref().ok_or_else(no_stream)?;
    let part = Part::of_sound(source.duration);
    let (map, fades, most) = (format!("0:{}", sound.index), part.fades(), seconds(part.most));
    let mut output = vec!["-t", &most, "-map", &map, "-vn"];
    if let Some(fades) = &fades {
        output.extend(["-af", fades]);
    }
    output.extend(["-c:a", "libmp3lame", "-b:a", "128k", "-ar", "44100", "-ac", "2"]);
    output.extend(["-id3v2_version", "0", "-write_id3v1", "0"]);
    let file = "preview.mp3";
    let encoding = Encoding {
        tools,
        workspace,
        container,
        start: part.start,
        output: &output,
        file,
        time,
    };
    encoding.run().await?;
    let made = measure(tools, workspace, file, Container::Mp3).await?;
    match &made.audio {
        Some(Audio { codec, .. }) if codec == "mp3" => part.clip(workspace.file(file), &made, None),
        _ => Err(Error::file(Fault::BadOutput, "no sound came out")),
    }
}

/// What cannot be opened of our own making is bad output, not a corrupt source.
async fn measure(tools: &Tools, workspace: &Workspace, file: &str, container: Container) -> Result<Probe, Error> {
    probe(tools, workspace.path(), file, container)
        .await
        .map_err(|error| match error {
            Error::File {
                fault: Fault::CorruptMedia,
                detail,
            } => Error::file(Fault::BadOutput, detail),
            error => error,
        })
}

impl Part {
    fn of_video(duration: Option<f64>) -> Self {
        let start = duration.map_or(0.0, |duration| (0.1 * duration).min((duration - VIDEO).max(0.0)));
        Self::new(duration, start, VIDEO)
    }

    fn of_sound(duration: Option<f64>) -> Self {
        let long = duration.filter(|duration| *duration > SHORT_SOUND);
        let start = long.map_or(0.0, |duration| (0.2 * duration).min(duration - SOUND));
        Self::new(duration, start, SOUND)
    }

    fn new(duration: Option<f64>, start: f64, most: f64) -> Self {
        Self {
            start,
            length: duration.map(|duration| duration.min(most)),
            most,
            is_cut_at_end: duration.is_none_or(|duration| duration > start + most),
        }
    }

    /// A cut in the middle of a sound clicks.
    fn fades(&self) -> Option<String> {
        let come = (self.start > 0.0).then(|| format!("afade=t=in:d={FADE}"));
        let go = self
            .is_cut_at_end
            .then(|| format!("afade=t=out:st={}:d={FADE}", self.most - FADE));
        let fades: Vec<_> = come.into_iter().chain(go).collect();
        (!fades.is_empty()).then(|| fades.join(","))
    }

    fn clip(&self, file: PathBuf, made: &Probe, size: Option<(u32, u32)>) -> Result<Clip, Error> {
        let bad = |detail: String| Err(Error::file(Fault::BadOutput, detail));
        let Some(duration) = made.duration else {
            return bad("nobody knows how long it is".into());
        };
        match self.length {
            Some(length) if (duration - length).abs() > TOLERANCE => {
                return bad(format!("it has {duration:.1} s, and {length:.1} s were asked for"));
            }
            _ => {}
        }
        Ok(Clip {
            file,
            start: Duration::from_secs_f64(self.start),
            duration: Duration::from_secs_f64(duration),
            size,
            bitrate: made.bitrate,
        })
    }
}

/// Whole pictures, a constant rate, square pixels, eight bits and ordinary colours. FFmpeg has turned it upright before.
fn filters(video: &Video) -> String {
    let mut filters = Vec::new();
    if video.is_interlaced {
        filters.push("bwdif=mode=send_frame".to_owned());
    }
    let (above, below) = frame_rate(video.frame_rate);
    filters.push(format!("fps={above}/{below}"));
    let (width, height) = fit(video.width, video.height);
    let colours = if video.is_hdr {
        ":out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:out_range=tv"
    } else {
        ""
    };
    filters.push(format!("scale={width}:{height}{colours}"));
    filters.push("setsar=1".to_owned());
    filters.push("format=yuv420p".to_owned());
    filters.join(",")
}

fn frame_rate(source: Option<(u32, u32)>) -> (u32, u32) {
    let is_slower = |(above, below): &(u32, u32)| u64::from(*above) < u64::from(*below) * u64::from(FRAME_RATE.0);
    source.filter(is_slower).unwrap_or(FRAME_RATE)
}

/// Into the box, lying or standing as the source does, never larger than it, with even sides.
fn fit(width: u32, height: u32) -> (u32, u32) {
    let (most_width, most_height) = if height > width { (BOX.1, BOX.0) } else { BOX };
    let scale = (f64::from(most_width) / f64::from(width))
        .min(f64::from(most_height) / f64::from(height))
        .min(1.0);
    let side = |side: u32, most: u32| {
        // The nearest even number, and at most the even one below the source's.
        let even = (f64::from(side) * scale / 2.0).round() as u32 * 2;
        even.min(side / 2 * 2).clamp(2, most)
    };
    (side(width, most_width), side(height, most_height))
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_video_begins_at_a_tenth_unless_its_end_would_be_missed() {
        for (duration, start, length) in [
            (25.0, 2.5, 10.0),
            (11.0, 1.0, 10.0),
            (10.0, 0.0, 10.0),
            (4.3, 0.0, 4.3),
            (7200.0, 720.0, 10.0),
        ] {
            let part = Part::of_video(Some(duration));
            assert!((part.start - start).abs() < 1e-9, "{duration}: {part:?}");
            assert_eq!(part.length, Some(length));
        }
        assert_eq!(Part::of_video(None).start, 0.0);
    }

    #[test]
    fn a_sound_of_more_than_a_minute_begins_at_a_fifth() {
        for (duration, start, fades) in [
            (90.0, 18.0, Some("afade=t=in:d=0.5,afade=t=out:st=29.5:d=0.5")),
            (60.0, 0.0, Some("afade=t=out:st=29.5:d=0.5")),
            (30.0, 0.0, None),
            (12.0, 0.0, None),
        ] {
            let part = Part::of_sound(Some(duration));
            assert_eq!((part.start, part.fades().as_deref()), (start, fades), "{duration}");
        }
    }

    #[test]
    fn sides_are_even_and_never_longer_than_the_sources() {
        for (source, made) in [
            ((1920, 1080), (1280, 720)),
            ((1080, 1920), (720, 1280)),
            ((607, 1081), (606, 1080)),
            ((640, 360), (640, 360)),
            ((1000, 1000), (720, 720)),
            ((4000, 10), (1280, 4)),
            ((1, 1), (2, 2)),
        ] {
            assert_eq!(fit(source.0, source.1), made, "{source:?}");
        }
    }

    #[test]
    fn a_rate_above_thirty_becomes_thirty_and_a_lower_one_stays() {
        assert_eq!(frame_rate(Some((60, 1))), (30, 1));
        assert_eq!(frame_rate(Some((30000, 1001))), (30000, 1001));
        assert_eq!(frame_rate(Some((25, 1))), (25, 1));
        assert_eq!(frame_rate(None), (30, 1));
    }

    proptest! {
        #[test]
        fn a_clip_lies_within_its_source(duration in 0.01..1e7f64) {
            for part in [Part::of_video(Some(duration)), Part::of_sound(Some(duration))] {
                prop_assert!(part.start >= 0.0);
                prop_assert!(part.start + part.length.unwrap() <= duration + 1e-6);
            }
        }

        #[test]
        fn any_picture_fits(width in 1u32..50_000, height in 1u32..50_000) {
            let (w, h) = fit(width, height);
            prop_assert!(w % 2 == 0 && h % 2 == 0 && w.max(h) <= 1280 && w.min(h) <= 720);
            prop_assert!((w <= width || w == 2) && (h <= height || h == 2));
        }
    }
}
