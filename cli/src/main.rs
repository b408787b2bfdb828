//! `jobs`: runs the jobs on one machine, feeds them and looks at them. Run it as `cargo jobs …`.

mod aws;
mod bench;
mod commands;
mod engine;
mod environment;
mod process;
mod progress;
mod table;

use clap::{Parser, Subcommand};

/// Background jobs on one machine: start them, feed them, look at them.
#[derive(Parser)]
#[command(name = "jobs", bin_name = "cargo jobs", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(commands::up::Up),
    Demo(commands::demo::Demo),
    Down(commands::down::Down),
    Status(commands::status::Status),
    Enqueue(commands::enqueue::Enqueue),
    Backfill(commands::backfill::Backfill),
    Logs(commands::logs::Logs),
    Runs(commands::runs::Runs),
    New(commands::new::New),
    Catalog(commands::catalog::Catalog),
    Check(commands::check::Check),
    Test(commands::test::Test),
    Bench(bench::Bench),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(command) => command.run().await,
        Command::Demo(command) => command.run().await,
        Command::Down(command) => command.run().await,
        Command::Status(command) => command.run().await,
        Command::Enqueue(command) => command.run().await,
        Command::Backfill(command) => command.run().await,
        Command::Logs(command) => command.run().await,
        Command::Runs(command) => command.run().await,
        Command::New(command) => command.run().await,
        Command::Catalog(command) => command.run(),
        Command::Check(command) => command.run().await,
        Command::Test(command) => command.run().await,
        Command::Bench(command) => command.run().await,
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // Whoever read our output has had enough of it: `jobs runs | head`.
        Err(error) if is_broken_pipe(&error) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", text(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// An error and its causes, each once: some libraries repeat the cause in their own text.
fn text(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !texts.last().is_some_and(|last| last.ends_with(&cause)) {
            texts.push(cause);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("refused").context("network: refused").context("no database");
        assert_eq!(super::text(&error), "no database: network: refused");
    }

    #[test]
    fn the_arguments_are_well_formed() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
