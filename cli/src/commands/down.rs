//! `jobs down`

use anyhow::Result;

use crate::engine;
use crate::environment::Workspace;

/// Stop what `up` started. The data stays.
#[derive(clap::Args)]
pub(crate) struct Down {
    /// Forget the data too: database, queues, buckets, logs.
    #[arg(long)]
    wipe: bool,
}

impl Down {
    pub(crate) async fn run(self) -> Result<()> {
        engine::down(&Workspace::current(), self.wipe).await
    }
}
