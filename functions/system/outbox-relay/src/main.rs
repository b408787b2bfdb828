//! Sends the outbox rows that a crash left behind.

use std::process::ExitCode;

use jobs::{RelayOutbox, catalog};
use runtime::{Outcome, Run, done};
use services::outbox::{self, Sent};

/// Rows of one page.
const PAGE: i64 = 100;

fn main() -> ExitCode {
    runtime::serve(catalog::OUTBOX_RELAY, relay)
}

async fn relay(_: RelayOutbox, run: &mut Run) -> Outcome {
    let context = run.context();
    let mut total = Sent::default();
    while !run.must_stop() {
        let page = outbox::claim(context.database(), PAGE).await?;
        if page.is_empty() {
            break;
        }
        let sent = outbox::send(context.database(), context.queues(), &page).await?;
        total = Sent {
            sent: total.sent + sent.sent,
            left: total.left + sent.left,
        };
    }
    done(total)
}
