use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Postgres, Transaction};
use tokio::sync::Mutex;

use crate::{Aws, Error};

/// An RDS IAM token is good for 15 minutes; a new one is made in time.
const TOKEN_LIFE: Duration = Duration::from_secs(10 * 60);

/// PostgreSQL, for one function instance: at most two connections, opened when first needed.
#[derive(Debug)]
pub struct Database {
    pool: PgPool,
    iam: Option<Iam>,
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
        let size = match std::env::var("DATABASE_POOL_SIZE") {
            Ok(size) => size.parse().map_err(|_| missing("DATABASE_POOL_SIZE"))?,
            Err(_) => 2,
        };
        let iam = (std::env::var("DATABASE_AUTH").as_deref() == Ok("iam")).then(|| Iam {
            options: options.clone(),
            aws: aws.clone(),
            made_at: Mutex::new(None),
        });
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(Duration::from_secs(10))
            // Connections die while the function is frozen, between invocations: `refresh` looks, once, instead of every statement.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        Ok(Self { pool, iam })
    }

    /// Around a pool that exists.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, iam: None }
    }

    /// The connections. Call [`Database::refresh`] once at the beginning of an invocation.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(self.pool.begin().await?)
    }

    /// Makes connections fit for an invocation: those that died while the function was frozen go, and with IAM the ones to come get
    /// a new token when the last has grown old.
    pub async fn refresh(&self) -> Result<(), Error> {
        let idle: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire()).collect();
        for mut connection in idle {
            if connection.ping().await.is_err() {
                connection.close_on_drop();
            }
        }
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
