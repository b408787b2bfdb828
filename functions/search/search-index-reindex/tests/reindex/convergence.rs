//! Whatever happened before, in whatever order: one reindex later every vector is right.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use testkit::World;

use crate::{JOB, wrong};

const UPDATE: &str = "search-index-update";
const BULK: &str = "search-index-bulk-update";

/// Of each kind of row.
const ROWS: u8 = 3;
const KINDS: [(&str, &str, &str); 5] = [
    ("asset", "ip_assets", "title"),
    ("creator", "creators", "stage_name"),
    ("project", "projects", "name"),
    ("license", "licenses", "license_type"),
    ("blog_post", "posts", "title"),
];
const TEXTS: [&str; 3] = ["Night Garden", "Golden Temple", ""];

/// Something that happens to the row `n` of a kind.
#[derive(Clone, Debug)]
enum Event {
    /// A user writes its text.
    Write {
        text: usize,
    },
    /// Somebody writes it where no trigger sees it.
    WritePast {
        text: usize,
    },
    /// A restored backup, or an old program, writes the vector.
    Corrupt,
    Delete,
    Restore,
    /// It is deleted for good, and made anew.
    Remake,
    /// The brand of a project or licence gets another name; of others nothing happens.
    RenameBrand {
        text: usize,
    },
    /// Its message is sent so many times; 0 is lost.
    Message {
        times: u8,
    },
    /// The jobs come to work off some of their messages.
    Work,
}

fn event() -> impl Strategy<Value = Event> {
    let text = 0..TEXTS.len();
    prop_oneof![
        3 => text.clone().prop_map(|text| Event::Write { text }),
        3 => text.clone().prop_map(|text| Event::WritePast { text }),
        2 => Just(Event::Corrupt),
        2 => Just(Event::Delete),
        2 => Just(Event::Restore),
        1 => Just(Event::Remake),
        1 => text.prop_map(|text| Event::RenameBrand { text }),
        4 => (0u8..3).prop_map(|times| Event::Message { times }),
        1 => Just(Event::Work),
    ]
}

async fn rows(world: &World) {
    for n in 0..ROWS {
        world.brand(&format!("brand{n}"), "Maison").await;
        world.asset(&format!("asset{n}"), TEXTS[0]).await;
        world.creator(&format!("creator{n}"), TEXTS[0]).await;
        world
            .project(&format!("project{n}"), &format!("brand{n}"), TEXTS[0])
            .await;
        world
            .license(&format!("license{n}"), &format!("asset{n}"), &format!("brand{n}"))
            .await;
        world.post(&format!("blog_post{n}"), TEXTS[0]).await;
    }
    world
        .execute(
            "UPDATE licenses SET project_id = replace(id, 'license', 'project')",
            &[],
        )
        .await;
}

async fn happen(world: &World, (kind, n, event): &(usize, u8, Event)) {
    let (entity, table, column) = KINDS[*kind];
    let id = format!("{entity}{n}");
    // A licence's own text is of a closed list.
    let set = |text: &usize| match entity {
        "license" => format!(
            "license_type = '{}'",
            ["EXCLUSIVE", "NON_EXCLUSIVE", "EXCLUSIVE_TERRITORY"][*text]
        ),
        _ => format!("{column} = '{}'", TEXTS[*text]),
    };
    let update = |set: &str| format!("UPDATE {table} SET {set} WHERE id = '{id}'");
    let past = |sql: String| format!("SET session_replication_role = replica; {sql}; RESET session_replication_role");
    let sql = match event {
        Event::Write { text } => update(&set(text)),
        Event::WritePast { text } => past(update(&set(text))),
        Event::Corrupt => update("search_vector = 'left:1 over:2'"),
        Event::Delete => update("deleted_at = now()"),
        Event::Restore => past(update("deleted_at = NULL")),
        // A licence holds its asset and its project.
        Event::Remake => match entity {
            "license" => format!("DELETE FROM licenses WHERE id = '{id}'; INSERT INTO licenses (id, ip_asset_id, brand_id, project_id, license_type, start_date, end_date)
                                  VALUES ('{id}', 'asset{n}', 'brand{n}', 'project{n}', 'EXCLUSIVE', '2030-01-01', '2030-12-31')"),
            _ => return,
        },
        Event::RenameBrand { text } => format!("UPDATE brands SET company_name = '{}' WHERE id = 'brand{n}'", TEXTS[*text]),
        Event::Message { times } => {
            world.send(UPDATE, (0..*times).map(|_| json!({"entityType": entity, "entityId": id})));
            return;
        }
        Event::Work => {
            world.pump(UPDATE).await;
            world.pump(BULK).await;
            return;
        }
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&world.db)
        .await
        .expect("the database");
}

#[test]
fn after_any_course_of_writes_and_messages_one_reindex_makes_every_vector_right() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let courses = prop::collection::vec((0..KINDS.len(), 0..ROWS, event()), 20..60);
    let world = runtime.block_on(async {
        let world = World::new("after_any_course").await;
        rows(&world).await;
        world.queue.misbehave(0.3, true);
        world
    });
    // Each course begins with what the one before has left.
    let mut runner = TestRunner::new(Config {
        cases: 6,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&courses, |course| {
            runtime.block_on(async {
                for step in &course {
                    happen(&world, step).await;
                }
                let times = "SELECT string_agg((updated_at - created_at)::text, ' ' ORDER BY id) FROM ip_assets";
                let before: String = sqlx::query_scalar(times).fetch_one(&world.db).await.unwrap();
                world.drain(UPDATE).await;
                world.drain(BULK).await;
                world.deliver(JOB, [json!({"batchSize": 10})]).await;
                prop_assert_eq!(wrong(&world).await, 0);
                let after: String = sqlx::query_scalar(times).fetch_one(&world.db).await.unwrap();
                prop_assert_eq!(before, after);
                let dead: Vec<Value> = [UPDATE, BULK, JOB]
                    .into_iter()
                    .flat_map(|job| world.dead_letters(job))
                    .map(|letter| json!(letter))
                    .collect();
                prop_assert_eq!(dead, Vec::<Value>::new());
                Ok(())
            })
        })
        .unwrap();
}
