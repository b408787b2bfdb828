use std::time::Duration;

use anyhow::{Result, ensure};

use super::measure::{cpu_seconds, mib, reset_statements, statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const MESSAGES: usize = 20_000;

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    let headings = [
        "event source",
        "messages/s",
        "median of",
        "CPU µs a message",
        "statements a message",
        "RSS MiB",
    ];
    let mut rows = Vec::new();
    // The latter of each pair has as many in flight: the database is at the work of one function while the other is at its own.
    for feed in [Feed::new(1, 10), Feed::new(2, 5), Feed::new(1, 100), Feed::new(2, 50)] {
        rows.push(measure(programs, &workshop, feed).await?);
    }
    println!(
        "{MESSAGES} messages that do nothing, ledger on\n\n{}",
        table::render(headings, &rows)
    );
    Ok(())
}

async fn measure(programs: &Programs, workshop: &Workshop, feed: Feed) -> Result<[String; 6]> {
    const ROUNDS: usize = 3;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (pool, url) = workshop.database("bench_runtime").await?;
        let line = Line::start(programs, "fixture", feed, &[("DATABASE_URL", url)]).await?;
        for _ in 0..MESSAGES {
            line.send(r#"{"end":"done"}"#.to_owned(), None);
        }
        reset_statements(&pool).await?;
        let before = cpu_seconds(&line.lambda.pids());
        let wall = line.drain().await;
        let cpu = cpu_seconds(&line.lambda.pids()) - before;
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM job_runs WHERE job <> 'past' AND status = 'done'")
            .fetch_one(&pool)
            .await?;
        ensure!(usize::try_from(done)? == MESSAGES, "{done} of {MESSAGES} runs are done");
        let memory: u64 = line.lambda.memory().iter().map(|memory| memory.peak).sum();
        rounds.push((wall, cpu, statements(&pool).await?, memory));
    }
    rounds.sort_by_key(|round| round.0);
    let (wall, cpu, statements, memory): (Duration, f64, i64, u64) = rounds[ROUNDS / 2];
    Ok([
        feed.to_string(),
        format!("{:.0}", MESSAGES as f64 / wall.as_secs_f64()),
        ROUNDS.to_string(),
        format!("{:.0}", 1e6 * cpu / MESSAGES as f64),
        format!("{:.3}", statements as f64 / MESSAGES as f64),
        format!("{:.1}", mib(memory)),
    ])
}
