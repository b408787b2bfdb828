//! `jobs new`

mod edit;
mod name;
mod text;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::process::Command;

use self::edit::Edits;
use self::name::Name;
use crate::environment::Workspace;
use crate::process;
use crate::progress::Progress;

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("../../../templates/job/", $file))
    };
}

/// Make a new job: crate, message, declaration, events and tests.
#[derive(clap::Args)]
pub(crate) struct New {
    /// Its place in functions/, <domain>/<job>, e.g. assets/orphan-cleanup.
    path: String,
    /// What it does, in one sentence.
    #[arg(long, value_parser = sentence)]
    about: Option<String>,
    /// When it is woken: EventBridge's six fields in UTC, e.g. "0 3 * * ? *". Without it, by messages alone.
    #[arg(long, value_parser = cron)]
    schedule: Option<String>,
    /// Its handler takes a whole batch, not one message at a time.
    #[arg(long)]
    batch: bool,
}

impl New {
    pub(crate) async fn run(self) -> Result<()> {
        let workspace = Workspace::current();
        let name = Name::parse(&self.path)?;
        let mut edits = self.edits(&workspace, &name)?;
        edits.format(&workspace.root).await?;
        edits.write()?;
        if let Err(error) = finish(&workspace, &name).await {
            edits.undo()?;
            return Err(error.context("nothing was changed"));
        }
        let path = &self.path;
        let body = if self.schedule.is_some() {
            "{}"
        } else {
            r#"{"id":"row_1"}"#
        };
        println!(
            "
{path} is a job. It builds, and its numbers fit.

  functions/{path}/src/main.rs
        what it does
  functions/{path}/tests/acceptance.rs
        what it must do
  shared/jobs/src/messages/{domain}.rs
        its message, {message}
  shared/jobs/src/catalog.rs
        its declaration, {constant}: attempts, concurrency, timeout, load
  events/{job}/
        what wakes it, and how that ends

  cargo test --package {job}
  cargo test --package black-box --test catalog --test events
  cargo jobs up                         deploys it on this machine
  cargo jobs enqueue {job} '{body}'",
            job = name.job,
            domain = name.domain,
            message = name.message(),
            constant = name.constant(),
        );
        Ok(())
    }

    /// All that is to be written, and nothing written yet.
    fn edits(&self, workspace: &Workspace, name: &Name<'_>) -> Result<Edits> {
        let root = &workspace.root;
        refuse_taken(root, name)?;
        let fill = |template: &str| self.fill(name, template);
        let mut edits = Edits::default();

        let folder = root.join("functions").join(name.domain).join(name.job);
        let handler = if self.batch {
            template!("main_batch.rs")
        } else {
            template!("main.rs")
        };
        edits.create(folder.join("Cargo.toml"), fill(template!("manifest.toml")));
        edits.create(folder.join("src/main.rs"), fill(handler));
        edits.create(folder.join("tests/acceptance.rs"), fill(template!("acceptance.rs")));

        let events = root.join("events").join(name.job);
        let (case, good, wrong, message) = match self.schedule {
            None => (
                "sqs-v1",
                template!("message.json"),
                template!("message_wrong.json"),
                template!("message.rs"),
            ),
            Some(_) => (
                "scheduled",
                template!("scheduled.json"),
                template!("scheduled_wrong.json"),
                template!("message_scheduled.rs"),
            ),
        };
        edits.create(events.join(case).with_extension("json"), fill(good));
        edits.create(events.join("sqs-wrong-fields.json"), fill(wrong));

        let sources = root.join("shared/jobs/src");
        let messages = sources.join("messages").join(name.domain).with_extension("rs");
        if messages.exists() {
            edits.change(messages, |text| Some(format!("{text}\n{}", fill(message))))?;
        } else {
            edits.create(messages, format!("use super::*;\n\n{}", fill(message)));
            edits.change(sources.join("messages.rs"), |text| {
                Some(text::module(text, name.domain))
            })?;
        }
        edits.change(sources.join("catalog.rs"), |text| {
            let text = text::insert(text, name.domain, &fill(&self.declaration(name)));
            text::list_all(&text)
        })?;
        // What building the job changes besides.
        edits.keep(root.join("Cargo.lock"))?;
        edits.keep(root.join("infra/catalog.json"))?;
        Ok(edits)
    }

    fn declaration(&self, name: &Name<'_>) -> String {
        let about = self.about(name);
        let priority = match self.schedule {
            Some(_) => "\n    .priority(Priority::Scheduled)",
            None => "",
        };
        let batch = if self.batch { "\n    .batch(10)" } else { "" };
        let schedule = match &self.schedule {
            Some(fields) => format!(
                "\n    .schedules(&[Schedule {{ name: \"tick\", cron: Cron::utc(\"{fields}\"), message: \"{{}}\" }}])"
            ),
            None => String::new(),
        };
        format!(
            "/// See the message's text.
pub const {{{{CONSTANT}}}}: Job<{{{{Message}}}}> = Job::new(\"{}\")
    .about({about:?}){priority}
    .attempts(3, Backoff::exponential(secs(30))){batch}
    .timeout(minutes(1))
    .memory(mb(256)){schedule};
",
            self.path
        )
    }

    fn about(&self, name: &Name<'_>) -> String {
        self.about.clone().unwrap_or_else(|| name.sentence())
    }

    fn fill(&self, name: &Name<'_>, template: &str) -> String {
        let about = self.about(name);
        let (good, bad, report, field, wire) = match self.schedule {
            None => (
                r#"{ "id": "row_1" }"#,
                r#"{ "id": 7 }"#,
                r#"{"id": "row_1"}"#,
                "id",
                "id",
            ),
            Some(_) => ("{}", r#"{ "dryRun": 7 }"#, r#"{"dryRun": false}"#, "dry_run", "dryRun"),
        };
        let values = [
            ("about", about.as_str()),
            ("job", name.job),
            ("Message", &name.message()),
            ("CONSTANT", &name.constant()),
            ("module", &name.module()),
            ("good", good),
            ("bad", bad),
            ("report", report),
            ("field", field),
            ("wire", wire),
        ];
        let fill = |text: String, (key, value): (&str, &str)| text.replace(&format!("{{{{{key}}}}}"), value);
        values.into_iter().fold(template.to_owned(), fill)
    }
}

/// Nothing is overwritten, and no two things have one name.
fn refuse_taken(root: &Path, name: &Name<'_>) -> Result<()> {
    for folder in [
        format!("functions/{}/{}", name.domain, name.job),
        format!("events/{}", name.job),
    ] {
        ensure!(!root.join(&folder).exists(), "{folder} exists");
    }
    ensure!(
        jobs::catalog::find(name.job).is_none(),
        "the catalog has a job {}",
        name.job
    );
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("could not read Cargo.lock")?;
    let package = format!("name = \"{}\"", name.job);
    ensure!(
        !lock.lines().any(|line| line == package),
        "another package is called {}",
        name.job
    );
    let (message, constant) = (name.message(), name.constant());
    let sources = root.join("shared/jobs/src");
    let mut files = Vec::new();
    for entry in fs::read_dir(sources.join("messages"))? {
        files.push(entry?.path());
    }
    files.push(sources.join("catalog.rs"));
    for file in files {
        let text = fs::read_to_string(&file)?;
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| *word == message || *word == constant) {
            bail!("{} has a {word}", file.strip_prefix(root)?.display());
        }
    }
    Ok(())
}

/// Builds the job, proves its numbers, and writes the manifest that is deployed.
async fn finish(workspace: &Workspace, name: &Name<'_>) -> Result<()> {
    // Before the build, which puts a new program in the place of this one: that knows the new job.
    let ourselves = std::env::current_exe()?;
    let log = workspace.log("new");
    let progress = Progress::new();
    let step = progress.step("build");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `up` builds, too: any other choice has other features, and compiles what they share again.
    cargo
        .args(["build", "--workspace", "--bins"])
        .current_dir(&workspace.root);
    process::run(&step, "cargo build", &mut cargo, &log).await?;
    step.done(name.job);
    let step = progress.step("catalog");
    process::run(&step, "jobs check", Command::new(&ourselves).arg("check"), &log).await?;
    let manifest = process::output(Command::new(&ourselves).args(["catalog", "--json"])).await;
    let manifest = manifest.ok_or_else(|| anyhow!("`jobs catalog --json` failed"))?;
    fs::write(workspace.root.join("infra/catalog.json"), manifest + "\n")
        .context("could not write infra/catalog.json")?;
    step.done("infra/catalog.json");
    Ok(())
}

/// One line, as the catalog has it: without a full stop.
fn sentence(text: &str) -> Result<String> {
    let text = text.trim().trim_end_matches('.');
    ensure!(
        !text.is_empty() && !text.contains(char::is_control),
        "not a sentence on one line"
    );
    Ok(text.to_owned())
}

/// The six fields of an EventBridge cron expression, with or without `cron(…)` around them.
fn cron(text: &str) -> Result<String> {
    let fields = text
        .strip_prefix("cron(")
        .and_then(|text| text.strip_suffix(')'))
        .unwrap_or(text);
    let fields: Vec<_> = fields.split_whitespace().collect();
    ensure!(
        fields.len() == 6,
        "not six fields: minutes, hours, day of month, month, day of week, year"
    );
    let legal = |c: char| c.is_ascii_alphanumeric() || "*?,-/#".contains(c);
    ensure!(
        fields.iter().all(|field| field.chars().all(legal)),
        "a field has a character that none can have"
    );
    ensure!(
        (fields[2] == "?") != (fields[4] == "?"),
        "one of day of month and day of week is ?, and only one"
    );
    Ok(fields.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(path: &str, schedule: Option<&str>, batch: bool) -> New {
        New {
            path: path.into(),
            about: Some("Removes what nobody uses".into()),
            schedule: schedule.map(str::to_owned),
            batch,
        }
    }

    #[test]
    fn a_sentence_has_one_line_and_no_full_stop() {
        assert_eq!(sentence(" Says \"hello\". ").unwrap(), "Says \"hello\"");
        assert!(sentence("").is_err() && sentence("a\nb").is_err());
    }

    #[test]
    fn six_fields_make_a_schedule() {
        assert_eq!(cron("cron(0/15 * * * ? *)").unwrap(), "0/15 * * * ? *");
        assert_eq!(cron("0  3 ? * MON-FRI *").unwrap(), "0 3 ? * MON-FRI *");
        for wrong in ["* * * * *", "0 3 * * * *", "0 3 ? * ? *", "0 3 * * ? \"", ""] {
            assert!(cron(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_placeholder_is_left_in_any_file() {
        let workspace = Workspace::current();
        for schedule in [None, Some("0 3 * * ? *")] {
            for batch in [false, true] {
                let new = new("assets/job-of-a-test", schedule, batch);
                let edits = new.edits(&workspace, &Name::parse(&new.path).unwrap()).unwrap();
                for (path, text) in edits.texts() {
                    assert!(
                        !text.contains("{{job") && !text.contains("{{Mess"),
                        "{}",
                        path.display()
                    );
                    let open = text
                        .split("{{")
                        .skip(1)
                        .find(|rest| rest.starts_with(|c: char| c.is_alphabetic()));
                    assert_eq!(open, None, "{}", path.display());
                }
            }
        }
    }

    #[test]
    fn a_declaration_has_what_was_asked_for() {
        let new = new("assets/orphan-cleanup", Some("0 3 * * ? *"), true);
        let name = Name::parse(&new.path).unwrap();
        let text = new.fill(&name, &new.declaration(&name));
        for part in [
            "pub const ORPHAN_CLEANUP: Job<OrphanCleanup> = Job::new(\"assets/orphan-cleanup\")",
            ".about(\"Removes what nobody uses\")",
            ".priority(Priority::Scheduled)",
            ".batch(10)",
            "cron: Cron::utc(\"0 3 * * ? *\")",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_there_is_already_is_refused() {
        let workspace = Workspace::current();
        let refusal = |path| {
            refuse_taken(&workspace.root, &Name::parse(path).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refusal("system/outbox-relay"), "functions/system/outbox-relay exists");
        assert_eq!(refusal("email/outbox-relay"), "events/outbox-relay exists");
        assert_eq!(refusal("system/serde"), "another package is called serde");
        assert_eq!(
            refusal("system/relay-outbox"),
            "shared/jobs/src/messages/system.rs has a RelayOutbox"
        );
    }
}
