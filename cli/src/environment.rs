//! Where the jobs run that a command talks to: the local engine unless told otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use sqlx::{Connection, PgConnection};

/// What `target/local/env` holds, in this order; the URLs of endpoints follow.
pub(crate) const VARIABLES: [&str; 7] = [
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "DATABASE_URL",
    "ASSETS_BUCKET",
    "QUEUE_PREFIX",
];

/// The files of this workspace that the local engine uses.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// The workspace that `cargo jobs` was called in.
    pub(crate) fn current() -> Self {
        // `cargo run` names the package; the compiled-in path may be that of another clone with the same target.
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        Self {
            root: Path::new(&package).parent().map_or_else(PathBuf::new, Path::to_owned),
        }
    }

    /// What was installed; costs a download to make again.
    pub(crate) fn engine(&self) -> PathBuf {
        self.root.join("target/engine")
    }

    /// What functions find below `/opt` on Lambda.
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("target/layers")
    }

    /// The state of the running engine.
    pub(crate) fn local(&self) -> PathBuf {
        self.root.join("target/local")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.local().join("logs").join(name).with_extension("log")
    }

    pub(crate) fn env_file(&self) -> PathBuf {
        self.local().join("env")
    }
}

/// Which system a command means.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The deployed system: AWS_*, QUEUE_PREFIX and DATABASE_URL of your shell, not the local engine.
    #[arg(long)]
    aws: bool,
}

impl Target {
    /// # Errors
    /// Without `--aws`, when there has never been a local engine.
    pub(crate) fn environment(&self) -> Result<Environment> {
        if self.aws || std::env::var_os("AWS_ENDPOINT_URL").is_some() {
            return Ok(Environment { variables: None });
        }
        Environment::local(&Workspace::current())
    }
}

/// The settings of one system.
pub(crate) struct Environment {
    /// Those of `target/local/env`; otherwise the shell's.
    variables: Option<BTreeMap<String, String>>,
}

impl Environment {
    /// The local engine.
    ///
    /// # Errors
    /// When there has never been one.
    pub(crate) fn local(workspace: &Workspace) -> Result<Self> {
        let text = fs::read_to_string(workspace.env_file())
            .map_err(|_| anyhow!("the local engine is not set up: run `cargo jobs up` first, or pass --aws"))?;
        Ok(Self {
            variables: Some(parse(&text)),
        })
    }

    /// A variable, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let value = match &self.variables {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// A job's queue.
    pub(crate) fn queue(&self, job: &str) -> String {
        let prefix = self.get("QUEUE_PREFIX").unwrap_or_else(|| "yg-".into());
        format!("{prefix}{job}")
    }

    pub(crate) async fn aws(&self) -> SdkConfig {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let Some(variables) = &self.variables else {
            return loader.load().await;
        };
        let value = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let credentials = Credentials::new(
            value("AWS_ACCESS_KEY_ID"),
            value("AWS_SECRET_ACCESS_KEY"),
            None,
            None,
            "target/local/env",
        );
        loader
            .endpoint_url(value("AWS_ENDPOINT_URL"))
            .region(Region::new(value("AWS_REGION")))
            .credentials_provider(credentials)
            .load()
            .await
    }

    pub(crate) async fn database(&self) -> Result<PgConnection> {
        let url = self.get("DATABASE_URL").context("DATABASE_URL is not set")?;
        let connection = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect(&url)).await;
        connection
            .context("the database does not answer")?
            .context("could not connect to the database")
    }
}

/// Writes a file for `source`, readable by its owner alone: a database address may hold a password.
pub(crate) fn write(file: &Path, values: [&str; VARIABLES.len()], endpoints: &BTreeMap<String, String>) -> Result<()> {
    let urls = endpoints
        .iter()
        .map(|(name, url)| (format!("{}_URL", name.to_uppercase().replace('-', "_")), url.as_str()));
    let lines = VARIABLES
        .iter()
        .map(|name| (*name).to_owned())
        .zip(values)
        .chain(urls)
        .map(|(name, value)| format!("export {name}={}\n", quote(value)));
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
        file.write_all(lines.collect::<String>().as_bytes())
    };
    write().with_context(|| format!("could not write {}", file.display()))
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let assignments = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    let unquote = |value: &str| {
        let inner = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        inner.unwrap_or(value).replace(r"'\''", "'")
    };
    assignments
        .map(|(name, value)| (name.to_owned(), unquote(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let file = std::env::temp_dir().join(format!("jobs-env-{}", std::process::id()));
        let values = [
            "http://127.0.0.1:4566",
            "us-east-1",
            "test",
            "test",
            "postgres://o'neill:$x@h/d?a=b&c='",
            "",
            "yg-",
        ];
        let url = "http://127.0.0.1:4566/x/";
        write(&file, values, &[("one-click".to_owned(), url.to_owned())].into()).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let read = parse(&text);
        assert_eq!(VARIABLES.map(|name| read[name].as_str()), values);
        assert_eq!(read["ONE_CLICK_URL"], url);
    }
}
