use testkit::World;

/// The statement for a frozen week, as the function sends it, without the hints for the compiler.
fn statement(text: &str, values: &[&str]) -> String {
    let mut sql = text.replace("!\"", "\"");
    for (n, value) in values.iter().enumerate() {
        sql = sql.replace(&format!("${}", n + 1), value);
    }
    sql
}

#[tokio::test]
async fn a_week_and_a_month_among_a_year_are_found_by_an_index_and_written_by_one_statement() {
    let world = World::new("plan_of_a_week").await;
    world
        .execute(
            "INSERT INTO daily_metrics (date, ip_asset_id, views)
             SELECT date '2025-01-01' + d, 'ast_' || a, 1 FROM generate_series(0, 364) d, generate_series(1, 60) a",
            &[],
        )
        .await;
    world.execute("ANALYZE", &[]).await;
    // Written since: to the statistics these periods are empty, and a loop over their rows would look cheap.
    world
        .execute(
            "INSERT INTO weekly_metrics (week_start_date, week_end_date, ip_asset_id)
             SELECT week, week + 6, 'ast_' || a FROM unnest('{2025-09-29,2025-10-06}'::date[]) AS week, generate_series(1, 60) a",
            &[],
        )
        .await;
    let week = statement(
        include_str!("../../../../../shared/rollups/src/sql/week.sql"),
        &["date '2025-10-06'", "false"],
    );
    let weeks = "'{2025-10-01,2025-10-06,2025-10-13,2025-10-20,2025-10-27}'::date[]";
    let month = statement(
        include_str!("../../../../../shared/rollups/src/sql/month.sql"),
        &["date '2025-10-01'", "date '2025-10-31'", "false", weeks, weeks],
    );
    for sql in [week, month] {
        let mut tx = world.db.begin().await.unwrap();
        rollups::plan_for_sets(&mut tx).await.unwrap();
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {sql}")))
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        let plan = plan.join("\n");
        assert!(
            plan.contains("daily_metrics_date_") && !plan.contains("Seq Scan on daily_metrics"),
            "{plan}"
        );
        assert_eq!(plan.matches("Insert on").count(), 1, "{plan}");
        assert!(!plan.contains("Nested Loop"), "{plan}");
    }
}
