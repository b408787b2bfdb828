/// A kind of file, which exactly one demuxer opens (spec: assets 0.6 rule 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    /// MPEG-4 and QuickTime.
    Mp4,
    /// Matroska and WebM.
    Matroska,
    /// Audio Video Interleave.
    Avi,
    /// MPEG layer 3 frames.
    Mp3,
    /// RIFF with PCM, mostly.
    Wav,
    /// Ogg, with whatever is in it.
    Ogg,
    /// AAC frames.
    Aac,
}

impl Container {
    /// By the type that the scan has detected; `None` when nothing here opens it.
    pub fn of_mime_type(mime_type: &str) -> Option<Self> {
        Some(match mime_type {
            "video/mp4" | "video/quicktime" | "audio/mp4" => Self::Mp4,
            "video/x-matroska" | "video/webm" | "audio/webm" => Self::Matroska,
            "video/x-msvideo" => Self::Avi,
            "audio/mpeg" => Self::Mp3,
            "audio/wav" | "audio/x-wav" => Self::Wav,
            "audio/ogg" | "video/ogg" => Self::Ogg,
            "audio/aac" => Self::Aac,
            _ => return None,
        })
    }

    /// What a local copy is called.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Mp4 => "in.mp4",
            Self::Matroska => "in.mkv",
            Self::Avi => "in.avi",
            Self::Mp3 => "in.mp3",
            Self::Wav => "in.wav",
            Self::Ogg => "in.ogg",
            Self::Aac => "in.aac",
        }
    }

    /// Whether it is frames and nothing else, so that how long it is can only be guessed.
    pub(crate) const fn is_without_index(self) -> bool {
        matches!(self, Self::Mp3 | Self::Aac)
    }

    /// FFmpeg's demuxer.
    pub(crate) const fn demuxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mov,mp4,m4a,3gp,3g2,mj2",
            Self::Matroska => "matroska,webm",
            Self::Avi => "avi",
            Self::Mp3 => "mp3",
            Self::Wav => "wav",
            Self::Ogg => "ogg",
            Self::Aac => "aac",
        }
    }
}
