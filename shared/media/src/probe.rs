use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::container::Container;
use crate::encode::open;
use crate::error::{Error, Fault};
use crate::tool::{Limits, Tools};

/// The most pixels of a picture that is decoded (spec: assets 0.6).
pub(crate) const MOST_PIXELS: u64 = 100_000_000;
const LIMITS: Limits = Limits::new(Duration::from_secs(60));

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// In seconds; `None` when the file does not say.
    pub duration: Option<f64>,
    /// Bits a second, over all.
    pub bitrate: Option<u64>,
    /// Its first video that can be named and is no picture of its cover; else what is wrong with what there is.
    pub video: Result<Video, Error>,
    /// Its first sound that can be named; else what is wrong with what there is.
    pub audio: Result<Audio, Error>,
}

/// A video as it is shown: upright, with square pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// Its number among the streams of the file.
    pub index: u32,
    /// FFmpeg's name.
    pub codec: String,
    /// In seconds, where the container has one for each stream.
    pub duration: Option<f64>,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// Pictures a second on average, as a fraction; `None` when there is only one.
    pub frame_rate: Option<(u32, u32)>,
    /// Whether its lines come in two halves.
    pub is_interlaced: bool,
    /// Whether it is brighter than ordinary screens can show.
    pub is_hdr: bool,
}

/// A sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Its number among the streams of the file.
    pub index: u32,
    /// FFmpeg's name.
    pub codec: String,
    /// Samples a second.
    pub sample_rate: Option<u32>,
    /// How many sounds at once.
    pub channels: Option<u32>,
}

/// Asks ffprobe what there is in a file of the workspace.
///
/// # Errors
/// [`Fault::CorruptMedia`] when the demuxer of the container does not open it, [`Fault::ToolTimeout`].
pub async fn probe(tools: &Tools, folder: &Path, file: &str, container: Container) -> Result<Probe, Error> {
    let mut arguments = open(container);
    arguments.extend(["-print_format", "json", "-show_format", "-show_streams", file].map(str::to_owned));
    let output = tools.run(&tools.ffprobe, &arguments, folder, LIMITS).await?;
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::file(Fault::CorruptMedia, format!("ffprobe's answer is not legible: {error}")))?;
    let mut probe = answer.read();
    if output.is_too_large && probe.video.is_err() {
        // Then it leaves out the size.
        probe.video = Err(Error::file(Fault::ImageTooLarge, "its pictures have too many pixels"));
    }
    Ok(probe)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    duration: Option<String>,
    bit_rate: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stream {
    index: u32,
    codec_type: String,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    sample_aspect_ratio: Option<String>,
    avg_frame_rate: Option<String>,
    field_order: Option<String>,
    color_transfer: Option<String>,
    sample_rate: Option<String>,
    channels: Option<u32>,
    duration: Option<String>,
    disposition: Disposition,
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Disposition {
    attached_pic: u8,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SideData {
    rotation: Option<f64>,
}

impl Answer {
    fn read(self) -> Probe {
        let of_streams = || {
            self.streams
                .iter()
                .filter_map(|stream| seconds(stream.duration.as_deref()))
        };
        let duration = seconds(self.format.duration.as_deref()).or_else(|| of_streams().reduce(f64::max));
        Probe {
            duration,
            bitrate: self.format.bit_rate.as_deref().and_then(|rate| rate.parse().ok()),
            video: self.stream("video").and_then(Stream::video),
            audio: self.stream("audio").and_then(Stream::audio),
        }
    }

    fn stream(&self, kind: &str) -> Result<&Stream, Error> {
        let of_kind = |stream: &&Stream| stream.codec_type == kind && stream.disposition.attached_pic == 0;
        let mut streams = self.streams.iter().filter(of_kind).peekable();
        let fault = match streams.peek() {
            Some(_) => Error::file(Fault::CorruptMedia, format!("nothing here decodes its {kind}")),
            None => Error::file(Fault::NoStream, format!("it has no {kind}")),
        };
        streams.find(|stream| stream.codec().is_some()).ok_or(fault)
    }
}

impl Stream {
    fn codec(&self) -> Option<&str> {
        self.codec_name.as_deref().filter(|name| *name != "unknown")
    }

    fn video(&self) -> Result<Video, Error> {
        let (Some(coded_width @ 1..), Some(height @ 1..)) = (self.width, self.height) else {
            return Err(Error::file(Fault::CorruptMedia, "its pictures have no size"));
        };
        if u64::from(coded_width) * u64::from(height) > MOST_PIXELS {
            let detail = format!("its pictures have {coded_width} x {height} pixels");
            return Err(Error::file(Fault::ImageTooLarge, detail));
        }
        let (wide, high) = self.sample_aspect_ratio.as_deref().and_then(fraction).unwrap_or((1, 1));
        // Wider than its pixels, never lower: nothing is lost.
        let width = (u64::from(coded_width) * u64::from(wide) / u64::from(high)).clamp(1, MOST_PIXELS);
        let width = u32::try_from(width).unwrap_or(coded_width);
        let rotation = self
            .side_data_list
            .iter()
            .find_map(|data| data.rotation)
            .unwrap_or_default();
        let lies_on_its_side = (45.0..135.0).contains(&rotation.rem_euclid(180.0));
        let (width, height) = if lies_on_its_side {
            (height, width)
        } else {
            (width, height)
        };
        Ok(Video {
            index: self.index,
            codec: self.codec().unwrap_or_default().to_owned(),
            duration: seconds(self.duration.as_deref()),
            width,
            height,
            frame_rate: self.avg_frame_rate.as_deref().and_then(fraction),
            is_interlaced: matches!(self.field_order.as_deref(), Some("tt" | "bb" | "tb" | "bt")),
            is_hdr: matches!(self.color_transfer.as_deref(), Some("smpte2084" | "arib-std-b67")),
        })
    }

    fn audio(&self) -> Result<Audio, Error> {
        Ok(Audio {
            index: self.index,
            codec: self.codec().unwrap_or_default().to_owned(),
            sample_rate: self.sample_rate.as_deref().and_then(|rate| rate.parse().ok()),
            channels: self.channels,
        })
    }
}

fn seconds(text: Option<&str>) -> Option<f64> {
    text?
        .parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0)
}

/// `30000/1001` or `4:3`; nothing of it may be zero.
fn fraction(text: &str) -> Option<(u32, u32)> {
    let (above, below) = text.split_once(['/', ':'])?;
    let part = |text: &str| text.parse().ok().filter(|part| *part > 0);
    Some((part(above)?, part(below)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(streams: Value, format: Value) -> Probe {
        serde_json::from_value::<Answer>(json!({"streams": streams, "format": format}))
            .unwrap()
            .read()
    }

    fn video(more: Value) -> Value {
        let mut stream =
            json!({"index": 0, "codec_type": "video", "codec_name": "h264", "width": 1920, "height": 1080});
        stream
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        stream
    }

    #[test]
    fn a_video_is_measured_as_it_is_shown() {
        for (more, size) in [
            (json!({}), (1920, 1080)),
            (json!({"side_data_list": [{"rotation": -90}]}), (1080, 1920)),
            (json!({"side_data_list": [{}, {"rotation": 270.0}]}), (1080, 1920)),
            (json!({"side_data_list": [{"rotation": 180}]}), (1920, 1080)),
            (json!({"width": 1440, "sample_aspect_ratio": "4:3"}), (1920, 1080)),
            (json!({"sample_aspect_ratio": "0:1"}), (1920, 1080)),
        ] {
            let video = read(json!([video(more.clone())]), json!({})).video.unwrap();
            assert_eq!((video.width, video.height), size, "{more}");
        }
    }

    #[test]
    fn the_picture_of_a_cover_is_no_video() {
        let cover = video(json!({"disposition": {"attached_pic": 1}}));
        let sound =
            json!({"index": 1, "codec_type": "audio", "codec_name": "mp3", "sample_rate": "44100", "channels": 2});
        let probe = read(
            json!([cover, sound]),
            json!({"duration": "90.04", "bit_rate": "128000"}),
        );
        assert!(matches!(
            probe.video,
            Err(Error::File {
                fault: Fault::NoStream,
                ..
            })
        ));
        assert_eq!(probe.audio.unwrap().sample_rate, Some(44100));
        assert_eq!((probe.duration, probe.bitrate), (Some(90.04), Some(128_000)));
    }

    #[test]
    fn what_a_file_does_not_say_is_not_made_up() {
        let probe = read(
            json!([video(json!({"avg_frame_rate": "0/0"}))]),
            json!({"duration": "N/A"}),
        );
        assert_eq!((probe.duration, probe.bitrate), (None, None));
        assert_eq!(probe.video.unwrap().frame_rate, None);
        let of_stream = read(json!([video(json!({"duration": "4.3"}))]), json!({}));
        assert_eq!(of_stream.duration, Some(4.3));
    }

    #[test]
    fn pictures_beyond_the_limit_are_refused_by_their_header() {
        for (more, expected) in [
            (json!({"width": 30000, "height": 30000}), Fault::ImageTooLarge),
            (json!({"width": 0}), Fault::CorruptMedia),
            (json!({"codec_name": null}), Fault::CorruptMedia),
        ] {
            let error = read(json!([video(more.clone())]), json!({})).video.unwrap_err();
            assert!(
                matches!(error, Error::File { fault, .. } if fault == expected),
                "{more}: {error}"
            );
        }
    }

    #[test]
    fn a_stream_that_cannot_be_named_does_not_condemn_the_others() {
        let unknown = json!({"index": 0, "codec_type": "audio"});
        let known = json!({"index": 1, "codec_type": "audio", "codec_name": "aac"});
        let probe = read(json!([unknown, known, video(json!({"index": 2}))]), json!({}));
        assert_eq!((probe.audio.unwrap().index, probe.video.unwrap().index), (1, 2));
        let probe = read(json!([unknown, video(json!({"index": 1}))]), json!({}));
        assert!(probe.video.is_ok() && probe.audio.is_err());
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(width in any::<u32>(), height in any::<u32>(), ratio in "[0-9]{0,12}[:/][0-9]{0,12}", rotation in any::<f64>()) {
            let streams = json!([video(json!({
                "width": width, "height": height, "sample_aspect_ratio": ratio, "avg_frame_rate": ratio, "side_data_list": [{"rotation": rotation}]
            }))]);
            if let Ok(video) = read(streams, json!({"duration": ratio})).video {
                prop_assert!(video.width > 0 && video.height > 0);
            }
        }
    }
}
