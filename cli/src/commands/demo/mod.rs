//! `jobs demo`

mod cast;
mod clip;
mod facts;
mod report;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chrono::Utc;
use console::Term;
use serde_json::{Value, json};

use self::cast::Cast;
use self::clip::Bucket;
use self::facts::{Facts, Standing};
use self::wire::{Message, Wire};
use crate::engine;
use crate::environment::{Environment, Workspace};
use crate::progress::Progress;

/// The job of the notifications.
const JOB: &str = "notification-delivery";
/// Sent a second time, as a careless producer or SQS itself may.
const REPEATED: usize = 10;
/// Mail that found its lane full leaves with the next tick of email-dispatch, up to a minute later.
const PATIENCE: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Start everything, send a few hundred notifications to people with different wishes, upload a film, and show what became of it all.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// Build the functions with optimisation, as they are deployed.
    #[arg(long)]
    release: bool,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<()> {
        let workspace = Workspace::current();
        engine::up(&workspace, self.release).await?;
        let environment = Environment::local(&workspace)?;
        let mut database = environment.database().await?;
        let wire = Wire::new(&environment).await?;
        let bucket = Bucket::new(&environment).await?;
        let progress = Progress::new();

        let step = progress.step("people");
        let cast = Cast::new(Utc::now());
        bucket.clear().await?;
        cast.enter(&mut database).await?;
        wire.clear_dead_letters().await?;
        step.done(&format!(
            "{} people with different wishes, {} notifications for them",
            cast.people(),
            cast.notifications.len()
        ));

        let messages = messages(&cast);
        let watch = async |label, expected: usize, database: &mut _| -> Result<Standing> {
            let step = progress.step(label);
            let begun = Instant::now();
            loop {
                let standing = Standing::read(database, &cast.prefix, expected).await?;
                step.note(standing.line());
                if standing.is_settled() {
                    step.done(&standing.line());
                    return Ok(standing);
                }
                if begun.elapsed() > PATIENCE {
                    step.done(&standing.line());
                    bail!(unsettled(&standing));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // The first one alone: from then on the sender knows how fast SES may be fed, and a function is warm.
        wire.send(JOB, &messages[..1]).await?;
        watch("first", 1, &mut database).await?;
        let step = progress.step("queue");
        wire.send(JOB, &messages[1..]).await?;
        step.done(&format!(
            "{} messages sent: {REPEATED} of them for the second time, and one that is misspelt",
            messages.len()
        ));
        watch("delivery", messages.len(), &mut database).await?;

        let clip = clip::show(&cast, &bucket, &wire, &mut database, &progress).await?;
        let facts = Facts::read(&mut database, &wire, &cast, messages.len(), clip).await?;
        let width = Term::stdout().size_checked().map_or(100, |(_, columns)| columns.into());
        print!("\n{}", report::render(&facts, width));
        if facts.checks.iter().any(|check| !check.holds) {
            bail!("something above is not as it must be");
        }
        Ok(())
    }
}

/// One for each notification, some of them twice, and one that nobody can read.
fn messages(cast: &Cast) -> Vec<Message> {
    let message = |id: &Value, run_key: String| Message {
        body: json!({ "notificationId": id }).to_string(),
        run_key,
    };
    let ids: Vec<_> = cast
        .notifications
        .iter()
        .map(|notification| &notification["id"])
        .collect();
    let key = |id: &Value| id.as_str().unwrap_or_default().to_owned();
    let mut messages: Vec<_> = ids.iter().map(|id| message(id, key(id))).collect();
    messages.extend(ids.iter().take(REPEATED).map(|id| message(id, key(id) + wire::AGAIN)));
    let misspelt = Message {
        body: json!({ "notificationID": ids[0] }).to_string(),
        run_key: cast.prefix.clone() + wire::MISSPELT,
    };
    // In the middle of a batch of ten, which it must not take down.
    messages.insert(messages.len() / 2, misspelt);
    messages
}

fn unsettled(standing: &Standing) -> String {
    let reasons = if standing.reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", standing.reasons.join(", "))
    };
    format!(
        "after {} s {} messages have no end yet, and {} mails{reasons} have not left

  cargo jobs status                            is every function's event source Enabled, does a queue grow?
  cargo jobs runs {JOB}        what became of the runs, and why
  cargo jobs logs {JOB}        what the function said
  cargo jobs logs email-dispatch               who sends what had to wait, every minute",
        PATIENCE.as_secs(),
        standing.open_runs(),
        standing.waiting
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_bad_and_some_are_twice() {
        let cast = Cast::new(Utc::now());
        let messages = messages(&cast);
        assert_eq!(messages.len(), cast.notifications.len() + REPEATED + 1);
        let spec = jobs::catalog::NOTIFICATION_DELIVERY.spec();
        let refused: Vec<_> = messages
            .iter()
            .filter(|message| (spec.accepts)(serde_json::from_str(&message.body).unwrap()).is_err())
            .collect();
        assert_eq!(refused.len(), 1);
        assert!(refused[0].run_key.ends_with(wire::MISSPELT));
    }
}
