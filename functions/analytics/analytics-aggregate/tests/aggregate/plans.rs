use testkit::World;

use crate::{ago, at};

/// A statement as the function sends it, without the hints for the compiler.
fn statement(text: &str) -> String {
    text.replace("!\"", "\"")
}

#[tokio::test]
async fn a_day_among_ninety_is_found_by_an_index_and_written_by_one_statement() {
    let world = World::new("plan_of_a_day").await;
    world
        .execute(
            "INSERT INTO events (occurred_at, event_type, actor_id, ip_asset_id)
             SELECT now() - (i % 90) * interval '1 day', 'asset_viewed', 'a' || i, 'ast_' || i % 50 FROM generate_series(1, 20000) i",
            &[],
        )
        .await;
    world.execute("ANALYZE", &[]).await;
    let (from, to) = (at(ago(1), "00:00:00"), at(ago(0), "00:00:00"));
    let day = statement(include_str!("../../../../../shared/rollups/src/sql/day.sql"));
    let day = day
        .replace("$1", &format!("'{}'", ago(1)))
        .replace("$2", &format!("'{from}'"))
        .replace("$3", &format!("'{to}'"));
    let hours = statement(include_str!("../../src/sql/hours.sql"))
        .replace("$1", &format!("'{{{from}}}'"))
        .replace("$2", &format!("'{from}'"))
        .replace("$3", &format!("'{}'", at(ago(1), "01:00:00")));
    for sql in [day, hours] {
        let mut tx = world.db.begin().await.unwrap();
        rollups::plan_for_sets(&mut tx).await.unwrap();
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {sql}")))
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        let plan = plan.join("\n");
        assert!(
            plan.contains("on events e") && !plan.contains("Seq Scan on events e"),
            "{plan}"
        );
        assert_eq!(plan.matches("Insert on").count(), 1, "{plan}");
        assert!(!plan.contains("Nested Loop"), "{plan}");
    }
}
