//! Events that tests of the analytics begin with, and rows as they look at them in the end.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::World;

impl World {
    /// Inserts events: an array of objects with the columns of `events`. Unless told, they are asset views that were received now.
    ///
    /// # Panics
    ///
    /// When the database refuses them.
    pub async fn events(&self, events: Value) {
        let insert = "
            INSERT INTO events (id, occurred_at, created_at, event_type, actor_id, session_id, project_id, ip_asset_id, license_id, post_id, props,
                                idempotency_key, is_bot)
            SELECT coalesce(id, gen_random_uuid()::text), occurred_at, coalesce(created_at, clock_timestamp()), coalesce(event_type, 'asset_viewed'),
                   actor_id, session_id, project_id, ip_asset_id, license_id, post_id, coalesce(props, '{}'), idempotency_key,
                   coalesce(is_bot, false)
            FROM jsonb_populate_recordset(NULL::events, $1)
            ON CONFLICT (idempotency_key) DO NOTHING";
        let inserted = sqlx::query(insert).bind(events).execute(&self.db).await;
        inserted.expect("events that the database takes");
    }

    /// The rows of a query, as objects.
    ///
    /// # Panics
    ///
    /// When the database refuses it.
    pub async fn rows(&self, sql: &str) -> Vec<Value> {
        let sql = format!("SELECT to_jsonb(t) FROM ({sql}) t");
        let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.db).await;
        rows.expect("a query that the database takes")
    }
}
