//! Deletes authentication tokens that nobody can use any more (spec: platform, `token-cleanup`).

use std::process::ExitCode;

use jobs::{Sweep, catalog};
use runtime::{Outcome, Run, Sweeper, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep deleted, by table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    verification_tokens: i64,
    unused_reset_tokens: i64,
    used_reset_tokens: i64,
    temporary_auth_tokens: i64,
    trusted_devices: i64,
    step_up_tokens: i64,
    total: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::TOKEN_CLEANUP, clean)
}

async fn clean(message: Sweep, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message, 5000).await?;
    macro_rules! delete {
        ($count:ident, $table:tt, $time:tt, $rule:tt) => {
            sweep
                .step(stringify!($count), async |page| {
                    let swept = delete_page!(page, $table, $time, "id", $rule)?;
                    page.report.$count += swept.gone;
                    page.report.total += swept.gone;
                    Ok(swept)
                })
                .await
        };
    }
    delete!(
        verification_tokens,
        "verification_tokens",
        "expires_at",
        "expires_at < $1"
    );
    delete!(
        unused_reset_tokens,
        "password_reset_tokens",
        "expires_at",
        "used_at IS NULL AND expires_at < $1"
    );
    // A used one is evidence for a week, and says "already used" in the place of "unknown".
    delete!(
        used_reset_tokens,
        "password_reset_tokens",
        "used_at",
        "used_at < $1 - interval '7 days'"
    );
    delete!(
        temporary_auth_tokens,
        "temporary_auth_tokens",
        "expires_at",
        "expires_at < $1 - interval '1 hour'"
    );
    delete!(trusted_devices, "trusted_devices", "expires_at", "expires_at < $1");
    delete!(step_up_tokens, "step_up_tokens", "expires_at", "expires_at < $1");
    sweep.finish()
}
