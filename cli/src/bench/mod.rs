//! Benchmarks: the release binaries driven through the Lambda Runtime API, without an emulator in between, beside a limit that is
//! measured in the same run. Nothing here asserts a time; ratios are printed for people to judge.

mod cold_start;
mod contender;
mod digest;
mod limit;
mod measure;
mod notify;
mod preview;
mod rollup;
mod runtime;
mod search;
mod sweep;
mod workshop;

use anyhow::Result;
use clap::Subcommand;

/// Measures the release build; see CONTRIBUTING.md for what the figures mean.
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// 5,000 notifications, SES answering after 20 ms.
    Notify,
    /// Daily digests of 1,245 and of 20,000 users, SES answering after 20 ms.
    Digest,
    /// Messages that do nothing, through the whole runtime, ledger included.
    Runtime,
    /// A weekly roll-up of 1,000,000 daily rows, and the enrichment of 20,000 events.
    Rollup,
    /// 100,000 assets reindexed, 5,000 updated one by one, and what users ask.
    Search,
    /// The clip of a sound of 100 MiB, and those of a film of a minute and of one of two hours.
    Preview,
    /// Process start to the first request for work, and memory, beside a function that has nothing but lambda_runtime.
    ColdStart,
    /// A million dead rows among two million, beside one DELETE; and a slot of failed log-ins at ten million a day.
    Sweep,
    /// One workload for a harness that compares job systems: `enqueue` fills the queue, `work` empties it.
    Contender { step: contender::Step, workload: String },
}

impl Bench {
    pub(crate) async fn run(self) -> Result<()> {
        match self.what {
            What::Notify => notify::run().await,
            What::Digest => digest::run().await,
            What::Runtime => runtime::run().await,
            What::Rollup => rollup::run().await,
            What::Search => search::run().await,
            What::Preview => preview::run().await,
            What::ColdStart => cold_start::run().await,
            What::Sweep => sweep::run().await,
            What::Contender { step, workload } => contender::run(step, &workload).await,
        }
    }
}
