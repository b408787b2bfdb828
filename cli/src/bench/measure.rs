//! CPU and memory from `/proc`, statements from `pg_stat_statements`.

use anyhow::Result;
use sqlx::PgPool;

/// User and system seconds of processes so far. Ticks are hundredths on every Linux that runs this.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    };
    pids.iter().filter_map(ticks).sum::<f64>() / 100.0
}

pub(crate) async fn reset_statements(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(pool).await?;
    Ok(())
}

/// Statements that this database has executed since the reset.
pub(crate) async fn statements(pool: &PgPool) -> Result<i64> {
    let sql = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
               WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_stat_statements%'";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
