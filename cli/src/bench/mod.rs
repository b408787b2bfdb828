//! Benchmarks: functions driven through the Lambda Runtime API, without an emulator in between, beside a limit that is measured in the
//! same run. Nothing here asserts a time; ratios are printed for people to judge.

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

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Subcommand;
use workshop::Programs;

/// Measures functions; see CONTRIBUTING.md for what the figures mean.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// How they are built: `deploy` is what AWS runs, and takes a quarter of an hour the first time.
    #[arg(long, global = true, default_value = "release", value_parser = ["release", "deploy"])]
    profile: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    #[command(flatten)]
    Figures(Figures),
    /// One workload for a harness that compares job systems: `enqueue` fills the queue, `work` empties it, with the functions that lie
    /// beside this program.
    Contender { step: contender::Step, workload: String },
}

#[derive(Subcommand)]
enum Figures {
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
}

impl Bench {
    pub(crate) async fn run(self) -> Result<()> {
        match self.what {
            What::Figures(figures) => figures.take(&self.profile).await,
            What::Contender { step, workload } => contender::run(step, &workload).await,
        }
    }
}

impl Figures {
    async fn take(self, profile: &str) -> Result<()> {
        if cfg!(debug_assertions) {
            // One core is the function's and one the database's: a driver without optimisations would take its share of both.
            let driver = Programs::build("release", &["jobs"]).await?.path("jobs");
            let error = Command::new(driver).args(std::env::args_os().skip(1)).exec();
            return Err(error).context("the release build of this program does not start");
        }
        let build = async |names: &[&str]| Programs::build(profile, names).await;
        match self {
            Self::Notify => notify::run(&build(&["notification-delivery"]).await?).await,
            Self::Digest => digest::run(&build(&["notification-digest"]).await?).await,
            Self::Runtime => runtime::run(&build(&["fixture"]).await?).await,
            Self::Rollup => rollup::run(&build(&["metrics-aggregation", "analytics-enrich-event"]).await?).await,
            Self::Search => search::run(&build(&["search-index-reindex", "search-index-update"]).await?).await,
            Self::Preview => preview::run(&build(&["asset-preview-generation"]).await?).await,
            Self::ColdStart => cold_start::run(&build(&["bare", "notification-delivery"]).await?).await,
            Self::Sweep => sweep::run(&build(&["idempotency-cleanup", "failed-login-monitor"]).await?).await,
        }
    }
}
