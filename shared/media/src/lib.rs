//! Media files that strangers have made, through ffmpeg and ffprobe (spec: assets 0.6).
//!
//! # Terminology
//!
//! * **tool** – ffmpeg or ffprobe: a child process that reads one hostile file.
//! * **workspace** – the folder of one piece of work, and the only one that a tool writes to.
//! * **container** – the kind of file, as the scan has detected it; it decides which one demuxer may open the file.
//! * **clip** – a short part of a video or a sound, encoded anew.
//!
//! # Invariants
//!
//! * **A tool knows nothing of us**: an empty environment but for four variables, no shell, names of our own making, a directory of its
//!   own, and a parent whose `/proc` it cannot read.
//! * **A tool ends**: by itself, at its time limit, or with the future that waits for it; always with its whole process group.
//! * **A tool is bounded**: memory, CPU time, open files, the size of what it writes, and what it may say.
//! * **One demuxer, one protocol**: a playlist that calls itself a film is refused, and no file leads to another.
//! * **What comes out is probed again** before anybody hears of it, and what is told of it is measured.
//! * **A workspace outlives its process only until the next one starts**: what nobody holds is removed.
//!
//! # Ways to get this wrong
//!
//! * A name from outside on a command line: `-` begins an option, `:` a protocol.
//! * Believing a header: a duration of a hundred years and 30,000 x 30,000 pixels are two numbers in a small file.
//! * Limits for a file of our own, and none for the probe of it.

mod container;
mod encode;
mod error;
mod preview;
mod probe;
mod tool;
mod waveform;
mod workspace;

pub use container::Container;
pub use error::{Error, Fault};
pub use preview::{Clip, sound, video};
pub use probe::{Audio, Probe, Video, probe};
pub use tool::Tools;
pub use waveform::{Picture, WAVEFORM_VERSION, waveform};
pub use workspace::Workspace;
