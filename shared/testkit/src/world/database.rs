//! A database for each test, copied from a template that is migrated once for each state of `migrations/`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, process, thread};

use anyhow::{Context, Result};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgPool};
use tokio::sync::OnceCell;

use crate::postgres;

/// Databases of failed tests may be looked at for so long.
const KEPT_SECONDS: u64 = 24 * 3600;

/// PostgreSQL's limit, in bytes.
const LONGEST_NAME: usize = 63;

/// Any number: whoever holds this lock may make the template.
const TEMPLATE_LOCK: i64 = 0x7465_7374_6b69_7430;

/// Settings for many small databases that live for seconds.
const SMALL: &[(&str, &str)] = &[
    ("max_connections", "300"),
    ("autovacuum", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "256MB"),
];

#[derive(Debug)]
pub(super) struct Database {
    server: PgConnectOptions,
    name: String,
    url: String,
}

impl Database {
    pub(super) async fn create(test: &str) -> Result<Self> {
        static SERVER: OnceCell<Server> = OnceCell::const_new();
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let Server { url, options, template } = SERVER.get_or_try_init(Server::prepare).await?;
        let (pid, serial) = (process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let mut name = format!("test_{:08x}_{pid}_{serial}_{test}", seconds_since_1970());
        name.retain(|c| c.is_ascii_alphanumeric() || c == '_');
        name.truncate(LONGEST_NAME);
        let mut admin = PgConnection::connect_with(options).await?;
        drop_forgotten(&mut admin, &name).await?;
        execute(
            &mut admin,
            format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY"#),
        )
        .await?;
        admin.close().await?;
        Ok(Self {
            server: options.clone(),
            url: with_database(url, &name),
            name,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn pool(&self) -> PgPool {
        let options = self.server.clone().database(&self.name);
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options)
    }

    fn remove(&self) {
        let drop = format!(r#"DROP DATABASE IF EXISTS "{}" WITH (FORCE)"#, self.name);
        let server = self.server.clone();
        // Our caller may be a runtime's only thread, which cannot wait for itself.
        let removal = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = PgConnection::connect_with(&server).await?;
                execute(&mut admin, drop).await
            })
        });
        // What is left over is dropped by a later run.
        let _ = removal.join();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the database of this test is kept for a day: {}", self.url);
        } else {
            self.remove();
        }
    }
}

/// Where the databases of this process are made, and from what.
struct Server {
    url: String,
    options: PgConnectOptions,
    template: String,
}

impl Server {
    async fn prepare() -> Result<Self> {
        let url = server_url().await?;
        let options: PgConnectOptions = url.parse().context("DATABASE_URL is not an address")?;
        let connected = PgConnection::connect_with(&options).await;
        let mut admin = connected.with_context(|| format!("no answer from {url}"))?;
        let template = template(&mut admin, &options).await?;
        admin.close().await?;
        Ok(Self { url, options, template })
    }
}

/// `DATABASE_URL`, else a server of our own that all tests share.
async fn server_url() -> Result<String> {
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Ok(url);
    }
    let started = tokio::task::spawn_blocking(|| {
        let cluster = postgres::tests()?.context(
            "no PostgreSQL 15 or later: install one, or set DATABASE_URL, or let `cargo jobs up` install its own",
        )?;
        let settings = [postgres::THROW_AWAY, SMALL].concat();
        anyhow::Ok(cluster.start(0, &settings)?.url("postgres"))
    });
    started.await?
}

async fn template(admin: &mut PgConnection, server: &PgConnectOptions) -> Result<String> {
    let migrations = Path::new(crate::ROOT).join("migrations");
    let name = format!("template_{:016x}", contents_hash(&migrations)?);
    let exists = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let is_there = async |admin: &mut PgConnection| -> Result<bool> {
        Ok(sqlx::query_scalar::<_, i64>(exists)
            .bind(&name)
            .fetch_one(admin)
            .await?
            > 0)
    };
    if is_there(admin).await? {
        return Ok(name);
    }
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *admin)
        .await?;
    if !is_there(admin).await? {
        // Renamed when complete: a template is whole or absent.
        execute(admin, r#"DROP DATABASE IF EXISTS "template_unfinished" WITH (FORCE)"#).await?;
        execute(admin, r#"CREATE DATABASE "template_unfinished" TEMPLATE template0"#).await?;
        let mut unfinished = PgConnection::connect_with(&server.clone().database("template_unfinished")).await?;
        Migrator::new(migrations).await?.run(&mut unfinished).await?;
        unfinished.close().await?;
        execute(
            admin,
            format!(r#"ALTER DATABASE "template_unfinished" RENAME TO "{name}""#),
        )
        .await?;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *admin)
        .await?;
    Ok(name)
}

/// Failures of earlier runs: of this test, or of long ago.
async fn drop_forgotten(admin: &mut PgConnection, name: &str) -> Result<()> {
    let names = r"SELECT datname FROM pg_database WHERE datname LIKE 'test\_%'";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut *admin).await?;
    let oldest = seconds_since_1970() - KEPT_SECONDS;
    let forgotten = |other: &&String| match (parts(other), parts(name)) {
        (Some([made, pid, _, test]), Some([.., same])) => {
            let gone = Path::new("/proc/self").exists() && !Path::new("/proc").join(pid).exists();
            u64::from_str_radix(made, 16).is_ok_and(|made| made < oldest) || test == same && gone
        }
        _ => false,
    };
    for name in names.iter().filter(forgotten) {
        execute(admin, format!(r#"DROP DATABASE IF EXISTS "{name}" WITH (FORCE)"#)).await?;
    }
    Ok(())
}

/// When it was made, by which process, as its which, for which test.
fn parts(name: &str) -> Option<[&str; 4]> {
    let parts: Vec<&str> = name.strip_prefix("test_")?.splitn(4, '_').collect();
    parts.try_into().ok()
}

/// The names are our own.
async fn execute(admin: &mut PgConnection, statement: impl Into<String>) -> Result<()> {
    sqlx::query(AssertSqlSafe(statement.into())).execute(admin).await?;
    Ok(())
}

fn contents_hash(directory: &Path) -> Result<u64> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("no {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    let mut hash = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hash);
        fs::read(file)?.hash(&mut hash);
    }
    Ok(hash.finish())
}

/// The address with another database, and whatever else it says.
fn with_database(url: &str, name: &str) -> String {
    let (address, options) = url
        .split_once('?')
        .map_or((url, String::new()), |(url, options)| (url, format!("?{options}")));
    let host = address.find("://").map_or(0, |scheme| scheme + 3);
    let end = address[host..].find('/').map_or(address.len(), |slash| host + slash);
    format!("{}/{name}{options}", &address[..end])
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_all_but_its_database() {
        for (url, expected) in [
            ("postgres://me:pw@db.test:5432/app", "postgres://me:pw@db.test:5432/new"),
            (
                "postgres://db.test/app?sslmode=disable",
                "postgres://db.test/new?sslmode=disable",
            ),
            ("postgres://db.test", "postgres://db.test/new"),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }

    #[test]
    fn a_name_says_whose_it_is() {
        assert_eq!(
            parts("test_6b0274e2_15297_1_a_retry"),
            Some(["6b0274e2", "15297", "1", "a_retry"])
        );
        assert_eq!(parts("template_00"), None);
    }
}
