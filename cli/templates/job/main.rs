//! {{about}}.

use std::process::ExitCode;

use jobs::{{{Message}}, catalog};
use runtime::{Outcome, Run, done};
use serde_json::json;

fn main() -> ExitCode {
    runtime::serve(catalog::{{CONSTANT}}, work)
}

async fn work(message: {{Message}}, run: &mut Run) -> Outcome {
    done(json!({ "{{wire}}": message.{{field}}, "asOf": run.as_of() }))
}
