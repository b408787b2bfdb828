use std::time::Duration;

use anyhow::{Context, Result};
use testkit::lambda::{Function, Lambda, Logs};

use super::measure::mib;
use super::workshop::Programs;
use crate::table;

const STARTS: usize = 15;

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let headings = [
        "function",
        "start ms (median)",
        "× bare",
        "RSS MiB",
        "× bare",
        "binary MB",
    ];
    let mut rows = Vec::new();
    // Taken in turns, so that both meet the same machine.
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        bare.push(start(programs, "bare").await?);
        ours.push(start(programs, "notification-delivery").await?);
    }
    let (bare, ours) = (median(bare), median(ours));
    for (name, (took, resident)) in [("bare", bare), ("notification-delivery", ours)] {
        let size = std::fs::metadata(programs.path(name))?.len();
        rows.push([
            name.to_owned(),
            format!("{:.1}", took.as_secs_f64() * 1e3),
            format!("{:.2}", took.as_secs_f64() / bare.0.as_secs_f64()),
            format!("{:.1}", mib(resident)),
            format!("{:.2}", resident as f64 / bare.1 as f64),
            format!("{:.1}", size as f64 / 1e6),
        ]);
    }
    println!(
        "process start to the first request for work; `bare` has nothing but lambda_runtime\n\n{}",
        table::render(headings, &rows)
    );
    Ok(())
}

async fn start(programs: &Programs, name: &str) -> Result<(Duration, u64)> {
    let environment = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        ("QUEUE_URL_PREFIX", "http://127.0.0.1:1/000000000000/yg-"),
        ("APP_URL", "https://app.example.test"),
        ("EMAIL_FROM_ADDRESS", "no-reply@example.test"),
        ("EMAIL_POSTAL_ADDRESS", "1 Example Street, Example"),
        ("UNSUBSCRIBE_KEY", "bench:0123456789abcdef0123456789abcdef"),
    ];
    let environment = environment
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let lambda = Lambda::start(
        Function::new(programs.path(name))
            .named(name)
            .envs(environment)
            .logs(Logs::Discard),
    )
    .await?;
    let took = *lambda.cold_starts().first().context("no start was seen")?;
    let memory = lambda.memory().first().context("the function is gone")?.resident;
    Ok((took, memory))
}

fn median(mut all: Vec<(Duration, u64)>) -> (Duration, u64) {
    all.sort_unstable();
    let time = all[all.len() / 2].0;
    all.sort_unstable_by_key(|one| one.1);
    (time, all[all.len() / 2].1)
}
