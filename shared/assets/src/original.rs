use std::path::Path;

use runtime::{Failure, Run};
use services::storage::{Content, Download};

use crate::step::{Asset, Stop};

/// The largest upload (spec: assets 0.5).
const LARGEST: u64 = 100 << 20;

const MISSING: &str = "OBJECT_MISSING: the original is not in the bucket";

impl Asset {
    /// Copies the original into a new file, and makes sure that it is what was scanned.
    ///
    /// # Errors
    /// Why the step stops here.
    pub async fn fetch(&self, run: &Run, file: &Path) -> Result<(), Stop> {
        let unusable = |code, detail: &str| {
            Err(Stop::Unusable {
                code,
                detail: detail.to_owned(),
                is_retryable: false,
            })
        };
        match run.context().storage()?.download(&self.original, file, LARGEST).await? {
            Download::Complete(Content { bytes: 0, .. }) => unusable("EMPTY_FILE", "it has no content"),
            Download::Complete(content) if content.sha256_hex() == self.sha256 => Ok(()),
            Download::Complete(_) => Err(Stop::Unscanned("SOURCE_CHANGED")),
            Download::TooLarge => unusable("TOO_LARGE", "it has more than 100 MiB"),
            // What was promoted was there: this is somebody's business, but not before a second look.
            Download::Missing => Err(Stop::Failed {
                code: Some("OBJECT_MISSING"),
                failure: match run.attempt() {
                    1 => Failure::Retry {
                        error: MISSING.into(),
                        after: None,
                    },
                    _ => Failure::Dead { reason: MISSING.into() },
                },
            }),
        }
    }
}
