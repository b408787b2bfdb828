//! Every file of `events/` goes through the built function (see `events/README.md`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::{Failure, World};

const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../events");

/// Worlds side by side.
const AT_ONCE: usize = 4;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    answer: Value,
    runs: BTreeMap<String, String>,
}

struct Case {
    job: String,
    file: PathBuf,
}

#[tokio::test]
async fn every_event_ends_as_its_file_says() {
    let cases = cases();
    assert!(!cases.is_empty(), "{EVENTS} is empty");
    let results: Vec<_> = stream::iter(&cases)
        .map(replay)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} events:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for job in entries(Path::new(EVENTS)).into_iter().filter(|path| path.is_dir()) {
        let files = entries(&job).into_iter();
        cases.extend(
            files
                .filter(|file| file.extension().is_some_and(|e| e == "json"))
                .map(|file| Case { job: name(&job), file }),
        );
    }
    cases
}

async fn replay(Case { job, file }: &Case) -> Result<(), String> {
    let at = format!("{job}/{}", name(file));
    let mut event: Value =
        serde_json::from_str(&fs::read_to_string(file).expect("a file")).map_err(|error| format!("{at}: {error}"))?;
    let expect = event.as_object_mut().and_then(|event| event.remove("expect"));
    let expect: Expect =
        serde_json::from_value(expect.unwrap_or_default()).map_err(|error| format!("{at}: {error}"))?;
    let world = World::new(&at).await;
    if let Ok(given) = fs::read_to_string(file.with_file_name("given.sql")) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(given))
            .execute(&world.db)
            .await
            .expect("rows that fit");
    }

    let answer = match world.invoke(job, event).await {
        Ok(answer) => answer,
        Err(Failure::Function { message, .. }) => json!({ "error": message }),
        Err(failure) => json!({ "error": failure.to_string() }),
    };

    let runs = runs(&world, job).await;
    let mut dead: Vec<_> = runs.values().filter_map(|fate| fate.strip_prefix("dead: ")).collect();
    let letters = world.dead_letters(job);
    let mut reasons: Vec<_> = letters.iter().map(|letter| &*letter.attributes["reason"]).collect();
    dead.sort_unstable();
    reasons.sort_unstable();
    if dead != reasons {
        return Err(format!("{at}: the DLQ holds {reasons:#?}, and dead are {dead:#?}"));
    }
    let found = Expect { answer, runs };
    if found == expect {
        Ok(())
    } else {
        Err(format!("{at}: expected {expect:#?}, found {found:#?}"))
    }
}

async fn runs(world: &World, job: &str) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT CASE trigger WHEN 'invoke' THEN 'invoke' ELSE run_key END, concat_ws(': ', status, coalesce(reason, error))
         FROM job_runs WHERE job = $1",
    )
    .bind(job)
    .fetch_all(&world.db)
    .await
    .expect("the ledger");
    rows.into_iter().collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    entries
}

fn name(path: &Path) -> String {
    path.file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned()
}
