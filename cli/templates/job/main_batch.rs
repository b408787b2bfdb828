//! {{about}}.

use std::process::ExitCode;

use jobs::{{{Message}}, catalog};
use runtime::{Context, Delivery, Failure, Outcome, done};
use serde_json::json;

fn main() -> ExitCode {
    runtime::serve_batch(catalog::{{CONSTANT}}, work)
}

/// Outcomes in the order of the deliveries; an error is that of all of them.
async fn work(deliveries: &[Delivery<{{Message}}>], _: &Context) -> Result<Vec<Outcome>, Failure> {
    let outcome = |delivery: &Delivery<{{Message}}>| {
        done(json!({ "{{wire}}": delivery.message.{{field}}, "asOf": delivery.run.as_of() }))
    };
    Ok(deliveries.iter().map(outcome).collect())
}
