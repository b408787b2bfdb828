//! Media files for tests, made by ffmpeg while they run: none lies in the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::Value;

/// One of the tools of ffmpeg's layer: that of `FFMPEG_BIN` or `FFPROBE_BIN`, else as `cargo jobs up` has put it into `target/layers`.
pub fn tool(name: &str) -> String {
    let variable = format!("{}_BIN", name.to_uppercase());
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    };
    let layer = format!("{}/target/layers/ffmpeg-{architecture}/bin/{name}", crate::ROOT);
    std::env::var(variable).unwrap_or(layer)
}

/// A folder for files of one test. It goes when it is dropped.
#[derive(Debug)]
pub struct Studio(PathBuf);

impl Studio {
    /// An empty one. The name, best the test's own, is part of the folder's.
    ///
    /// # Panics
    ///
    /// When there is no room for it.
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("studio-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self(folder)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes a file by ffmpeg, of arguments with blanks between them.
    ///
    /// # Panics
    ///
    /// When ffmpeg cannot.
    pub fn make(&self, arguments: &str, file: &str) -> Bytes {
        let path = self.0.join(file);
        let output = Command::new(tool("ffmpeg"))
            .args(["-hide_banner", "-v", "error", "-nostdin", "-y"])
            .args(arguments.split_whitespace())
            .arg(&path)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo jobs up` installs it", tool("ffmpeg")));
        assert!(
            output.status.success(),
            "{file}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .into()
    }

    /// What ffprobe says of a file.
    ///
    /// # Panics
    ///
    /// When it cannot open it.
    pub fn probe(&self, content: &[u8], file: &str) -> Value {
        let path = self.0.join(file);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let output = Command::new(tool("ffprobe"))
            .args([
                "-v",
                "error",
                "-print_format",
                "json",
                "-show_format",
                "-show_streams",
                "-count_frames",
            ])
            .arg(&path)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", tool("ffprobe")));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{file}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The average of all pixels of the first picture, red, green and blue.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn colour(&self, content: &[u8], file: &str, filter: &str) -> [u8; 3] {
        let path = self.0.join(file);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let filter = format!("{filter}scale=1:1:flags=area,format=rgb24");
        let output = Command::new(tool("ffmpeg"))
            .args(["-hide_banner", "-v", "error", "-nostdin", "-i"])
            .arg(&path)
            .args(["-vf", &filter, "-frames:v", "1", "-f", "rawvideo", "-"])
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", tool("ffmpeg")));
        output
            .stdout
            .try_into()
            .unwrap_or_else(|_| panic!("{file}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        // What is left goes with the machine's other temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
