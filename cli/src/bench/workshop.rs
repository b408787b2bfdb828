//! What a benchmark runs on: functions, a PostgreSQL of its own, queues in memory.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jobs::catalog;
use sqlx::postgres::PgPool;
use testkit::lambda::{Function, Lambda, Logs};
use testkit::postgres::{Cluster, Installation, Server};
use testkit::queue::{Batches, Clock, Queue, Redrive, Rules};

use crate::environment::Workspace;

pub(crate) const PREFIX: &str = "yg-";
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// As on a server: every commit reaches the disk.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", "pg_stat_statements"),
    ("max_connections", "200"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("autovacuum", "off"),
];

/// Functions as they were built with one profile.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds these, and no others: a profile may spend minutes on each.
    pub(crate) async fn build(profile: &str, names: &[&str]) -> Result<Self> {
        let root = Workspace::current().root;
        let mut cargo = tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Of the workspace: a package alone has other features, and compiles what all share again.
        cargo
            .args(["build", "--workspace", "--profile", profile])
            .args(names.iter().flat_map(|name| ["--bin", name]))
            .current_dir(&root)
            .stdout(Stdio::null());
        ensure!(
            cargo.status().await.context("cargo")?.success(),
            "the {profile} build failed"
        );
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self {
            folder: target.join(profile),
        })
    }

    /// Those that lie beside this program.
    pub(crate) fn beside_this() -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().context("this program is in no folder")?.to_owned();
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The benchmark's own server, started when it is not up, stopped when this is dropped.
pub(crate) struct Workshop {
    cluster: Cluster,
    server: Server,
}

impl Workshop {
    pub(crate) fn open() -> Result<Self> {
        let workspace = Workspace::current();
        let installation =
            Installation::find(&workspace.engine()).context("no PostgreSQL is installed: run `cargo jobs up` once")?;
        let cluster = Cluster::new(installation, &workspace.root.join("target/bench/postgres"))?;
        let server = cluster.start(0, SETTINGS)?;
        Ok(Self { cluster, server })
    }

    /// A new, migrated database of that name.
    pub(crate) async fn database(&self, name: &str) -> Result<(PgPool, String)> {
        let admin = PgPool::connect(&self.server.url("postgres")).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
        )))
        .execute(&admin)
        .await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&admin)
            .await?;
        let url = self.server.url(name);
        let pool = PgPool::connect(&url).await?;
        migrate(&pool).await?;
        sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            .execute(&pool)
            .await?;
        Ok((pool, url))
    }

    /// A copy of a database that nobody is connected to.
    pub(crate) async fn copy(&self, from: &str, name: &str) -> Result<(PgPool, String)> {
        let admin = PgPool::connect(&self.server.url("postgres")).await?;
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name} TEMPLATE {from}"),
            // The copy is on its way to the disk: nobody is to wait for it later.
            "CHECKPOINT".to_owned(),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&admin).await?;
        }
        let url = self.server.url(name);
        Ok((PgPool::connect(&url).await?, url))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.stop() {
            eprintln!("the benchmark's PostgreSQL still runs: {error:#}");
        }
    }
}

/// Migrates, and gives the ledger a past: PostgreSQL keeps the plans that it made for a table, and those for an empty one scan it.
pub(crate) async fn migrate(pool: &PgPool) -> Result<()> {
    MIGRATIONS.run(pool).await?;
    let past = "INSERT INTO job_runs (job, run_key, status, trigger, attempts, first_seen_at, started_at, finished_at)
                SELECT 'past', 'run-' || i, 'done', 'message', 1, now(), now(), now() FROM generate_series(1, 20000) i;
                ANALYZE";
    sqlx::raw_sql(past).execute(pool).await?;
    Ok(())
}

/// A function on a queue.
pub(crate) struct Line {
    pub(crate) queue: Queue,
    pub(crate) lambda: Lambda,
    name: String,
    batches: Batches,
}

/// How the event source feeds a function.
#[derive(Clone, Copy)]
pub(crate) struct Feed {
    pub(crate) instances: usize,
    pub(crate) batch: usize,
}

impl Feed {
    /// A message at a time.
    pub(crate) const ONE: Self = Self::new(1, 1);

    pub(crate) const fn new(instances: usize, batch: usize) -> Self {
        Self { instances, batch }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.instances, self.batch)
    }
}

impl Line {
    /// Starts a function on a queue of its own.
    pub(crate) async fn start(
        programs: &Programs,
        name: &str,
        feed: Feed,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let queue = Queue::start(Clock::Real).await?;
        let spec = catalog::find(name);
        let full_name = format!("{PREFIX}{name}");
        let (visibility, max_receives) = spec.map_or((Duration::from_secs(180), 10), |spec| {
            (spec.visibility_timeout(), spec.max_receive_count())
        });
        let redrive = Some(Redrive {
            max_receives,
            dead_letters: format!("{full_name}-dlq"),
        });
        queue.configure(&full_name, Rules { visibility, redrive });
        let function = Function::new(programs.path(name))
            .named(name)
            .envs(settings())
            .env(
                "DATABASE_POOL_SIZE",
                spec.map_or(2, |spec| spec.connections).to_string(),
            )
            .envs(
                environment
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone())),
            )
            .env("AWS_ENDPOINT_URL_SQS", queue.address())
            .env("QUEUE_URL_PREFIX", queue.url(PREFIX))
            .instances(feed.instances)
            .timeout(spec.map_or(Duration::from_secs(30), |spec| spec.timeout))
            .memory_mb(spec.map_or(256, |spec| spec.memory_mb))
            .logs(Logs::Discard);
        let lambda = Lambda::start(function)
            .await
            .with_context(|| format!("{name} does not start"))?;
        let batches = Batches {
            size: feed.batch,
            concurrency: feed.instances,
        };
        Ok(Self {
            queue,
            lambda,
            name: full_name,
            batches,
        })
    }

    pub(crate) fn send(&self, body: String, run_key: Option<String>) {
        let attributes = run_key.map(|key| ("runKey".to_owned(), key)).into_iter().collect();
        self.queue.send_with(&self.name, body, attributes, Duration::ZERO);
    }

    /// Until the queue is empty.
    pub(crate) async fn drain(&self) -> Duration {
        let begun = Instant::now();
        self.queue.drain(&self.name, &self.lambda, self.batches).await;
        begun.elapsed()
    }

    /// Ends the function and waits for that: whoever counts the CPU of this process counts those that were waited for.
    pub(crate) async fn end(self) {
        self.lambda.kill().await;
    }

    pub(crate) fn dead_letters(&self) -> usize {
        self.queue.messages(&format!("{}-dlq", self.name)).len()
    }
}

/// What every deployment sets, for a platform that does not exist.
fn settings() -> impl Iterator<Item = (String, String)> {
    [
        ("APP_URL", "https://app.example.test"),
        ("EMAIL_FROM_ADDRESS", "no-reply@example.test"),
        ("EMAIL_POSTAL_ADDRESS", "1 Example Street, Example"),
        ("UNSUBSCRIBE_KEY", "bench:0123456789abcdef0123456789abcdef"),
        ("JOBS_LOG", "warn"),
        ("MALLOC_TRIM_THRESHOLD_", "16777216"),
        ("MALLOC_MMAP_THRESHOLD_", "16777216"),
        ("MALLOC_TOP_PAD_", "1048576"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}
