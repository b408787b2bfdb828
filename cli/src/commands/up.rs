//! `jobs up`

use anyhow::Result;

use crate::engine;
use crate::environment::Workspace;

/// Start everything on this machine, installing and building what is missing. Safe to repeat.
#[derive(clap::Args)]
pub(crate) struct Up {
    /// Build the functions with optimisation, as they are deployed.
    #[arg(long)]
    release: bool,
}

impl Up {
    pub(crate) async fn run(self) -> Result<()> {
        let workspace = Workspace::current();
        let engine = engine::up(&workspace, self.release).await.inspect_err(|_| {
            eprintln!("\nThe engine is not up. Run this again when the cause is gone: it goes on where it stopped.");
            eprintln!(
                "Everything that was said is in {}.\n",
                workspace.local().join("logs").display()
            );
        })?;
        println!(
            "
The local engine is up: {}

  cargo jobs status                  queues, functions and their last runs
  cargo jobs enqueue JOB '{{…}}'       send a message to a job
  cargo jobs runs                    what became of it
  cargo jobs logs JOB --follow       what the function said
  source target/local/env            for your own tools: DATABASE_URL, AWS_ENDPOINT_URL, …
  cargo jobs down                    stop; add --wipe to forget the data",
            engine.endpoint
        );
        Ok(())
    }
}
