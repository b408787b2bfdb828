//! Clips that let one see or hear what a file is (spec: assets, `asset-preview-generation`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

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
const FASTEST: u64 = 30;
/// Pictures a second, at least: the last one of a clip is shown for as long as one of its rate, and must not outlast the clip.
const SLOWEST: u64 = 5;

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

/// The segment of a source that is taken, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    start: f64,
    /// What will come out; `None` when nobody knows how long the source is.
    length: Option<f64>,
    /// No more than this comes out.
    most: f64,
    is_cut_at_end: bool,
}

/// What is needed for any clip.
struct Clipping<'a> {
    tools: &'a Tools,
    workspace: &'a Workspace,
    container: Container,
    /// When all attempts must have ended.
    deadline: Instant,
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
    let video = source.video.as_ref().map_err(Clone::clone)?;
    let clipping = Clipping::new(tools, workspace, container, time);
    let segment = Segment::of_video(video.duration.or(source.duration));
    let sound = source.audio.as_ref().ok();
    match clipping.video(video, sound, segment).await {
        // There may be no decoder for its sound.
        Err(Error::File {
            fault: Fault::CorruptMedia,
            ..
        }) if sound.is_some() => clipping.video(video, None, segment).await,
        // A picture that has been shown since before the segment.
        Err(Error::File {
            fault: Fault::BadOutput,
            ..
        }) if segment.start > 0.0 => clipping.video(video, sound, segment.at_beginning()).await,
        result => result,
    }
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
    let sound = source.audio.as_ref().map_err(Clone::clone)?;
    let clipping = Clipping::new(tools, workspace, container, time);
    match clipping.sound(sound, Segment::of_sound(source.duration)).await {
        // Its duration was a guess by the rate of its beginning: now nobody knows it.
        Err(Error::File {
            fault: Fault::BadOutput,
            ..
        }) if container.is_without_index() => clipping.sound(sound, Segment::of_sound(None)).await,
        result => result,
    }
}

impl<'a> Clipping<'a> {
    fn new(tools: &'a Tools, workspace: &'a Workspace, container: Container, time: Duration) -> Self {
        Self {
            tools,
            workspace,
            container,
            deadline: Instant::now() + time,
        }
    }

    async fn video(&self, video: &Video, sound: Option<&Audio>, segment: Segment) -> Result<Clip, Error> {
        let (map, filters) = (format!("0:{}", video.index), filters(video));
        let mut output = vec!["-map", &map, "-vf", &filters, "-c:v", "libx264", "-preset", "fast"];
        output.extend(["-b:v", "1000k", "-maxrate", "1500k", "-bufsize", "2000k"]);
        let sound = sound.map(|sound| format!("0:{}", sound.index));
        if let Some(sound) = &sound {
            output.extend(["-map", sound, "-c:a", "aac", "-b:a", "128k", "-ac", "2", "-ar", "48000"]);
        }
        output.extend(["-movflags", "+faststart"]);
        let file = "preview.mp4";
        let made = self.encode(segment, &output, file, Container::Mp4).await?;
        match &made.video {
            Ok(video) if video.codec == "h264" => {
                let size = Some((video.width, video.height));
                segment.clip(self.workspace.file(file), &made, size)
            }
            _ => Err(Error::file(Fault::BadOutput, "no video came out")),
        }
    }

    async fn sound(&self, sound: &Audio, segment: Segment) -> Result<Clip, Error> {
        let (map, fades) = (format!("0:{}", sound.index), segment.fades());
        let mut output = vec!["-map", &map, "-vn"];
        if let Some(fades) = &fades {
            output.extend(["-af", fades]);
        }
        output.extend(["-c:a", "libmp3lame", "-b:a", "128k", "-ar", "44100", "-ac", "2"]);
        output.extend(["-id3v2_version", "0", "-write_id3v1", "0"]);
        let file = "preview.mp3";
        let made = self.encode(segment, &output, file, Container::Mp3).await?;
        match &made.audio {
            Ok(sound) if sound.codec == "mp3" => segment.clip(self.workspace.file(file), &made, None),
            _ => Err(Error::file(Fault::BadOutput, "no sound came out")),
        }
    }

    /// Makes a file of the segment, and gives what it is.
    async fn encode(
        &self,
        segment: Segment,
        output: &[&str],
        file: &'static str,
        container: Container,
    ) -> Result<Probe, Error> {
        let most = segment.most.to_string();
        let output = [&["-t", &most], output].concat();
        let encoding = Encoding {
            tools: self.tools,
            workspace: self.workspace,
            container: self.container,
            start: segment.start,
            output: &output,
            file,
            time: self.deadline.saturating_duration_since(Instant::now()),
        };
        encoding.run().await?;
        measure(self.tools, self.workspace, file, container).await
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

impl Segment {
    fn of_video(duration: Option<f64>) -> Self {
        let start = duration.map_or(0.0, |duration| (0.1 * duration).min((duration - VIDEO).max(0.0)));
        // Where the video ends, the sound ends too.
        Self::new(duration, start, duration.map_or(VIDEO, |duration| duration.min(VIDEO)))
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

    /// As much, from the beginning of the source.
    fn at_beginning(self) -> Self {
        Self { start: 0.0, ..self }
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
    // From the start, whenever the first picture comes: it stands for those before it.
    filters.push(format!("fps={above}/{below}:start_time=0"));
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
    let is_below = |(above, below): (u32, u32), rate| u64::from(above) < u64::from(below) * rate;
    match source {
        Some(rate) if is_below(rate, SLOWEST) => (SLOWEST as u32, 1),
        Some(rate) if is_below(rate, FASTEST) => rate,
        _ => (FASTEST as u32, 1),
    }
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
            let segment = Segment::of_video(Some(duration));
            assert!((segment.start - start).abs() < 1e-9, "{duration}: {segment:?}");
            assert_eq!(segment.length, Some(length));
        }
        assert_eq!(Segment::of_video(None).start, 0.0);
    }

    #[test]
    fn a_sound_of_more_than_a_minute_begins_at_a_fifth() {
        for (duration, start, fades) in [
            (90.0, 18.0, Some("afade=t=in:d=0.5,afade=t=out:st=29.5:d=0.5")),
            (60.0, 0.0, Some("afade=t=out:st=29.5:d=0.5")),
            (30.0, 0.0, None),
            (12.0, 0.0, None),
        ] {
            let segment = Segment::of_sound(Some(duration));
            assert_eq!(
                (segment.start, segment.fades().as_deref()),
                (start, fades),
                "{duration}"
            );
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
    fn a_rate_above_thirty_becomes_thirty_and_a_lower_one_stays_unless_it_is_a_slide_show() {
        assert_eq!(frame_rate(Some((60, 1))), (30, 1));
        assert_eq!(frame_rate(Some((30000, 1001))), (30000, 1001));
        assert_eq!(frame_rate(Some((25, 1))), (25, 1));
        assert_eq!(frame_rate(Some((1, 15))), (5, 1));
        assert_eq!(frame_rate(None), (30, 1));
    }

    proptest! {
        #[test]
        fn a_clip_lies_within_its_source(duration in 0.01..1e7f64) {
            for segment in [Segment::of_video(Some(duration)), Segment::of_sound(Some(duration))] {
                prop_assert!(segment.start >= 0.0);
                prop_assert!(segment.start + segment.length.unwrap() <= duration + 1e-6);
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
