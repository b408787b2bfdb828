//! Cuts clips out of videos and sounds (spec: assets, `asset-preview-generation`).

mod bulk;
mod single;

use std::process::ExitCode;

use jobs::{PreviewAsset, catalog};
use media::Tools;

/// The rules by which previews are made. Raise it with them, and `{"mode": "bulk", "specVersion": …}` makes all previews anew.
const VERSION: u32 = 1;

fn main() -> ExitCode {
    let tools = match Tools::from_env() {
        Ok(tools) => tools,
        Err(error) => return runtime::refuse(catalog::ASSET_PREVIEW_GENERATION.spec(), &error),
    };
    runtime::serve(
        catalog::ASSET_PREVIEW_GENERATION,
        async move |message, run| match message {
            PreviewAsset::Single(message) => single::preview(&tools, &message, run).await,
            PreviewAsset::Bulk(message) => bulk::send(&message, run).await,
        },
    )
}
