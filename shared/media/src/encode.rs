use std::time::Duration;

use crate::container::Container;
use crate::error::{Error, Fault};
use crate::probe::MOST_PIXELS;
use crate::tool::{Limits, Tools};
use crate::workspace::Workspace;

/// How every tool is told to open a file, whatever the file says that it is.
pub(crate) fn open(container: Container) -> Vec<String> {
    let pixels = MOST_PIXELS.to_string();
    let arguments = [
        "-hide_banner",
        "-v",
        "error",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        container.demuxer(),
        "-max_pixels",
        &pixels,
    ];
    arguments.map(str::to_owned).into()
}

/// One call of ffmpeg, which makes one file of one other.
pub(crate) struct Encoding<'a> {
    pub tools: &'a Tools,
    pub workspace: &'a Workspace,
    pub container: Container,
    /// Where to begin, in seconds. FFmpeg seeks there: what is before is not decoded.
    pub start: f64,
    /// Maps, filters and codecs.
    pub output: &'a [&'a str],
    pub file: &'static str,
    pub time: Duration,
}

impl Encoding<'_> {
    /// Runs it. No words about the source go into the file: no tags, chapters, subtitles or data.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let mut arguments = open(self.container);
        let mut add = |some: &[&str]| arguments.extend(some.iter().copied().map(str::to_owned));
        add(&["-nostdin", "-y", "-threads", "2"]);
        if self.start > 0.0 {
            add(&["-ss", &format!("{:.3}", self.start)]);
        }
        add(&["-i", self.container.file_name()]);
        add(self.output);
        add(&["-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"]);
        add(&["-fs", "20M", "-threads", "2", self.file]);
        let limits = Limits::new(self.time);
        let folder = self.workspace.path();
        let output = self.tools.run(&self.tools.ffmpeg, &arguments, folder, limits).await?;
        if output.is_too_large {
            return Err(Error::file(Fault::ImageTooLarge, "its pictures are too large"));
        }
        let written = std::fs::metadata(self.workspace.file(self.file)).map(|file| file.len());
        match written {
            Ok(1..) => Ok(()),
            _ => Err(Error::file(Fault::BadOutput, "nothing came out")),
        }
    }
}
