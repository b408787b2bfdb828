use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::container::Container;
use crate::encode::Encoding;
use crate::error::{Error, Fault};
use crate::probe::Probe;
use crate::tool::Tools;
use crate::workspace::Workspace;

const WIDTH: u32 = 1800;
const HEIGHT: u32 = 280;
/// Samples a second: the filter keeps all of them until the end, and a picture of this width needs no more.
const RATE: u32 = 8000;

/// The rules by which waveforms are drawn; raise it with them.
pub const WAVEFORM_VERSION: u32 = 1;

/// A picture, and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Where it lies in the workspace.
    pub file: PathBuf,
    /// Its pixels from left to right.
    pub width: u32,
    /// Its pixels from top to bottom.
    pub height: u32,
}

/// Draws the whole of a sound as a PNG (spec: assets, `asset-metadata-extraction` step 5).
///
/// # Errors
/// All of [`Fault`].
pub async fn waveform(
    tools: &Tools,
    workspace: &Workspace,
    container: Container,
    source: &Probe,
    time: Duration,
) -> Result<Picture, Error> {
    let sound = source.audio.as_ref().map_err(Clone::clone)?.index;
    let graph = format!(
        "[0:{sound}]aformat=channel_layouts=mono,aresample={RATE},showwavespic=s={WIDTH}x{HEIGHT}:colors=#6366f1[wave];\
         color=c=#f3f4f6:s={WIDTH}x{HEIGHT}[ground];[ground][wave]overlay=format=rgb[picture]"
    );
    let raw = "waveform.rgb";
    let encoding = Encoding {
        tools,
        workspace,
        container,
        start: 0.0,
        output: &[
            "-filter_complex",
            &graph,
            "-map",
            "[picture]",
            "-frames:v",
            "1",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
        ],
        file: raw,
        time,
    };
    encoding.run().await?;
    let file = workspace.file("waveform.png");
    let pixels = fs::read(workspace.file(raw)).map_err(|error| Error::machine("a picture cannot be read", &error))?;
    encode(&pixels, &file)?;
    Ok(Picture {
        file,
        width: WIDTH,
        height: HEIGHT,
    })
}

/// Not by ffmpeg: the layer's has no zlib.
fn encode(pixels: &[u8], file: &Path) -> Result<(), Error> {
    let unwritable = |error| Error::machine("a picture cannot be written", &error);
    let mut encoder = png::Encoder::new(File::create(file).map_err(unwritable)?, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(pixels));
    match written {
        Ok(()) => Ok(()),
        Err(png::EncodingError::IoError(error)) => Err(unwritable(error)),
        Err(error) => Err(Error::file(Fault::BadOutput, error.to_string())),
    }
}
