use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use tokio::sync::Mutex;

use crate::{Aws, Error};

/// An RDS IAM token is good for 15 minutes; a new one is made in time.
const TOKEN_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long to wait for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that has not been used for so long may have died, in a function that was frozen meanwhile. By the wall clock: the
/// monotonic one stands still with the function.
const FRESH: Duration = Duration::from_secs(1);

/// PostgreSQL, for one function instance: at most two connections, opened when first needed. One is the runtime's own: a handler
/// that is stuck in a statement keeps nobody from the ledger, and a pool's test on every return would cost more than the ledger.
#[derive(Debug)]
pub struct Database {
    pool: PgPool,
    ledger: Mutex<Option<Ledger>>,
    iam: Option<Iam>,
}

#[derive(Debug)]
struct Ledger {
    connection: PgConnection,
    used_at: SystemTime,
}

#[derive(Debug)]
struct Iam {
    options: PgConnectOptions,
    aws: Aws,
    made_at: Mutex<Option<Instant>>,
}

impl Database {
    /// From `DATABASE_URL`, `DATABASE_POOL_SIZE` (2) and `DATABASE_AUTH` (`iam`: the password is a token, made
    /// from the function's own role). Connects to nothing yet.
    pub fn from_env(aws: &Aws) -> Result<Self, Error> {
        let missing = |what: &str| Error::permanent(format!("the environment has no usable {what}"));
        let url = std::env::var("DATABASE_URL").map_err(|_| missing("DATABASE_URL"))?;
        let options = PgConnectOptions::from_str(&url).map_err(|error| missing("DATABASE_URL").caused_by(error))?;
        // Who is connected shows in pg_stat_activity.
        let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
        let options = options.application_name(&name);
        let size: u32 = match std::env::var("DATABASE_POOL_SIZE") {
            Ok(size) => size.parse().map_err(|_| missing("DATABASE_POOL_SIZE"))?,
            Err(_) => 2,
        };
        let iam = (std::env::var("DATABASE_AUTH").as_deref() == Ok("iam")).then(|| Iam {
            options: options.clone(),
            aws: aws.clone(),
            made_at: Mutex::new(None),
        });
        // A connection that was in use a moment ago is not asked again whether it lives.
        let used_at = Arc::new(std::sync::Mutex::new(SystemTime::UNIX_EPOCH));
        let last_used_at = used_at.clone();
        let pool = PgPoolOptions::new()
            .max_connections(size.saturating_sub(1).max(1))
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_release(move |_, _| {
                *used_at.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
                Box::pin(async { Ok(true) })
            })
            .test_before_acquire(false)
            .before_acquire(move |connection, _| {
                let fresh = is_fresh(*last_used_at.lock().unwrap_or_else(PoisonError::into_inner));
                Box::pin(async move { Ok(fresh || connection.ping().await.is_ok()) })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            ledger: Mutex::new(None),
            iam,
        })
    }

    /// Around a pool that exists.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            ledger: Mutex::new(None),
            iam: None,
        }
    }

    /// The connections. Call [`Database::refresh`] once at the beginning of an invocation.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does something on the runtime's own connection, one caller at a time. Only a connection that has just answered is kept: one
    /// that failed, or whose caller gave up, goes.
    pub async fn ledger<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>) -> Result<T, Error> {
        let mut slot = self.ledger.lock().await;
        let mut connection = match slot.take() {
            Some(ledger) if is_fresh(ledger.used_at) => ledger.connection,
            Some(mut ledger) => match ledger.connection.ping().await {
                Ok(()) => ledger.connection,
                Err(_) => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let result = work(&mut connection).await;
        if result.is_ok() {
            *slot = Some(Ledger {
                connection,
                used_at: SystemTime::now(),
            });
        }
        result
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.pool.connect_options();
        let connecting = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options));
        Ok(connecting
            .await
            .map_err(|_| Error::transient("the database took no connection in time"))??)
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(self.pool.begin().await?)
    }

    /// Makes a new IAM token for connections to come, when the last one grows old. Without IAM does nothing.
    pub async fn refresh(&self) -> Result<(), Error> {
        let Some(iam) = &self.iam else { return Ok(()) };
        let mut made_at = iam.made_at.lock().await;
        if made_at.is_none_or(|at| at.elapsed() > TOKEN_LIFE) {
            let token = crate::iam::token(&iam.aws, &iam.options).await?;
            self.pool.set_connect_options(iam.options.clone().password(&token));
            *made_at = Some(Instant::now());
        }
        Ok(())
    }
}

fn is_fresh(used_at: SystemTime) -> bool {
    used_at.elapsed().is_ok_and(|age| age < FRESH)
}
