use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use super::measure::{cpu_seconds, mib, reset_statements, statements};
use super::workshop::{Feed, Line, Programs, Workshop};
use crate::table;

const ASSETS: i64 = 100_000;
const SINGLE: i64 = 5_000;
const ROUNDS: usize = 5;

/// Words of four thousand, some much more frequent than others, as in real text; the same on every machine. Of the assets 2 % more are
/// deleted.
const DATA: &str = "
    CREATE FUNCTION bench_word(w int) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN (ARRAY['bro','cal','dor','fen','gli','har','jun','kel','lum','mar','nor','pel','qui','ros','sil','tem'])[1 + w % 16]
        || (ARRAY['a','e','i','o','u','ai','ea','io','ar','er','ir','or','ul','an','en','on'])[1 + w / 16 % 16]
        || (ARRAY['bat','den','fort','ling','mond','nik','rant','zel','vis','tok','pam','gost','dral','kum','fax','hib'])[1 + w / 256];
    CREATE FUNCTION bench_words(seed bigint, words int) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN (SELECT string_agg(bench_word(((h & 4095) * ((h >> 12) & 4095) / 4096)::int), ' ')
            FROM generate_series(1, words) AS n, LATERAL (SELECT hashint8extended(seed * 1000 + n, 7) AS h) AS hash);
    CREATE TABLE bench_sentences AS SELECT n, bench_words(n, 10 + n % 11) AS words FROM generate_series(0, 4095) AS n;
    CREATE INDEX ON bench_sentences (n);
    ANALYZE bench_sentences;
    INSERT INTO users (id, email) VALUES ('owner', 'owner@example.test');
    INSERT INTO ip_assets (id, title, description, type, status, storage_key, file_size, mime_type, metadata, created_by, deleted_at)
    SELECT md5('asset' || i), initcap(bench_words(i + 5000, 3 + i % 5)), one.words || '. ' || two.words || '. ' || three.words,
           (ARRAY['IMAGE', 'VIDEO', 'AUDIO', 'DOCUMENT'])[1 + i % 4], (ARRAY['DRAFT', 'PUBLISHED', 'PUBLISHED', 'ARCHIVED'])[1 + i / 4 % 4],
           'assets/' || i, 1000 + i, 'image/png', jsonb_build_object('tags', string_to_array(bench_words(i + 2000000, 3), ' ')), 'owner',
           CASE WHEN i > 100000 THEN now() END
    FROM generate_series(1, 102000) AS i
    JOIN bench_sentences one ON one.n = hashint4(i) & 4095
    JOIN bench_sentences two ON two.n = hashint4(i + 200000) & 4095
    JOIN bench_sentences three ON three.n = hashint4(i + 400000) & 4095;
    CREATE TABLE bench_queued AS SELECT id, row_number() OVER (ORDER BY md5(id)) AS n FROM ip_assets WHERE deleted_at IS NULL ORDER BY md5(id) LIMIT 5000";

/// Every two hundredth asset gets a vector that is none of its text.
const SPOIL: &str =
    "UPDATE ip_assets SET search_vector = 'stale:1' WHERE deleted_at IS NULL AND hashtextextended(id, 0) % 200 = 0";
const WRONG: &str = "SELECT count(*) FROM ip_assets t WHERE search_vector IS DISTINCT FROM search_vector_of(t)";
/// The least that the database can do: compute all, write what is wrong.
const ONLY_WRONG: &str = "UPDATE ip_assets t SET search_vector = search_vector_of(t) WHERE search_vector IS DISTINCT FROM search_vector_of(t)";
const BATCHES: &str = "DO $$ DECLARE ids text[]; BEGIN
    FOR ids IN SELECT array_agg(id) FROM bench_queued GROUP BY n / 100 LOOP
        UPDATE ip_assets t SET search_vector = search_vector_of(t) WHERE id = ANY(ids) AND search_vector IS DISTINCT FROM search_vector_of(t);
        COMMIT;
    END LOOP; END $$";

/// What people ask: words, words with a filter, the beginning of a word, and the worst that there is.
const QUERIES: [(&str, &str, &str); 4] = [
    (
        "two words, ranked",
        "plainto_tsquery('yg_english', bench_word(300) || ' ' || bench_word(40))",
        "",
    ),
    (
        "a word, ranked, of published images",
        "plainto_tsquery('yg_english', bench_word(900))",
        " AND status = 'PUBLISHED' AND type = 'IMAGE'",
    ),
    (
        "the beginning of a word, ranked",
        "to_tsquery('yg_english', left(bench_word(2500), 6) || ':*')",
        "",
    ),
    (
        "the most frequent word of all, ranked",
        "plainto_tsquery('yg_english', bench_word(0))",
        "",
    ),
];

/// What one way of doing it took.
struct Figures {
    what: &'static str,
    wall: Duration,
    limit: Duration,
    statements: i64,
    wal: i64,
    limit_wal: i64,
    cpu: f64,
    memory: u64,
}

impl Figures {
    const HEADINGS: [&'static str; 9] = [
        "",
        "wall s",
        "limit s",
        "× limit",
        "statements",
        "WAL MB",
        "limit's",
        "CPU s",
        "RSS MiB",
    ];

    fn ratio(&self) -> f64 {
        self.wall.as_secs_f64() / self.limit.as_secs_f64()
    }

    fn cells(&self) -> [String; 9] {
        [
            self.what.to_owned(),
            format!("{:.2}", self.wall.as_secs_f64()),
            format!("{:.2}", self.limit.as_secs_f64()),
            format!("{:.2}", self.ratio()),
            self.statements.to_string(),
            format!("{:.1}", self.wal as f64 / 1e6),
            format!("{:.1}", self.limit_wal as f64 / 1e6),
            format!("{:.2}", self.cpu),
            format!("{:.1}", mib(self.memory)),
        ]
    }
}

pub(crate) async fn run(programs: &Programs) -> Result<()> {
    let workshop = Workshop::open()?;
    let (pool, url) = workshop.database("bench_search").await?;
    sqlx::raw_sql(DATA).execute(&pool).await?;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&pool).await?;
    let (one, two) = (
        "5,000 single updates, one function",
        "5,000 single updates, two functions",
    );
    let rows = [
        median(async || reindex(programs, &pool, &url).await).await?,
        median(async || single(programs, &pool, &url, 1, one).await).await?,
        median(async || single(programs, &pool, &url, 2, two).await).await?,
    ];
    let cells: Vec<_> = rows.iter().map(Figures::cells).collect();
    println!(
        "{ASSETS} assets, one in 200 with a wrong vector; of {ROUNDS} rounds the one with the median ratio\n\n{}",
        table::render(Figures::HEADINGS, &cells)
    );
    println!(
        "limit: in this run, all vectors compared and the wrong ones written by plain SQL without ledger or cursor: the reindex as one"
    );
    println!("statement on each of two connections, the single updates as one statement a hundred on one connection");
    queries(&pool).await?;
    Ok(())
}

async fn median(round: impl AsyncFn() -> Result<Figures>) -> Result<Figures> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push(round().await?);
    }
    rounds.sort_unstable_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    Ok(rounds.swap_remove(ROUNDS / 2))
}

async fn reindex(programs: &Programs, pool: &PgPool, url: &str) -> Result<Figures> {
    spoil(pool).await?;
    let (limit, limit_wal) = measure(pool, async {
        let half = |condition: &str| {
            sqlx::raw_sql(AssertSqlSafe(format!("{ONLY_WRONG} AND id {condition} '8'"))).execute(pool)
        };
        tokio::try_join!(half("<"), half(">="))?;
        Ok(())
    })
    .await?;
    let line = start(programs, "search-index-reindex", url, Feed::ONE).await?;
    spoil(pool).await?;
    line.send(json!({"entityType": "asset", "batchSize": 100}).to_string(), None);
    finish(pool, &line, "100,000 assets reindexed, pages of 100", limit, limit_wal).await
}

async fn single(
    programs: &Programs,
    pool: &PgPool,
    url: &str,
    instances: usize,
    what: &'static str,
) -> Result<Figures> {
    spoil(pool).await?;
    let (limit, limit_wal) = measure(pool, async {
        sqlx::raw_sql(BATCHES).execute(pool).await?;
        Ok(())
    })
    .await?;
    let line = start(programs, "search-index-update", url, Feed::new(instances, 100)).await?;
    spoil(pool).await?;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM bench_queued ORDER BY n")
        .fetch_all(pool)
        .await?;
    ensure!(ids.len() as i64 == SINGLE);
    for id in ids {
        line.send(json!({"entityType": "asset", "entityId": id}).to_string(), None);
    }
    finish(pool, &line, what, limit, limit_wal).await
}

async fn start(programs: &Programs, job: &str, url: &str, feed: Feed) -> Result<Line> {
    Line::start(programs, job, feed, &[("DATABASE_URL", url.to_owned())]).await
}

async fn finish(pool: &PgPool, line: &Line, what: &'static str, limit: Duration, limit_wal: i64) -> Result<Figures> {
    let untouched = "SELECT count(*) FROM ip_assets WHERE updated_at <> created_at";
    reset_statements(pool).await?;
    let before = cpu_seconds(&line.lambda.pids());
    let (wall, wal) = measure(pool, async {
        line.drain().await;
        Ok(())
    })
    .await?;
    let cpu = cpu_seconds(&line.lambda.pids()) - before;
    let statements = statements(pool).await?;
    let memory = line.lambda.memory().iter().map(|memory| memory.peak).sum();
    // A benchmark that did the wrong thing fast is worth nothing.
    let queued = format!("{WRONG} AND id IN (SELECT id FROM bench_queued)");
    let wrong = if what.contains("reindexed") { WRONG } else { &queued };
    ensure!(count(pool, wrong).await? == 0, "vectors are left wrong");
    ensure!(count(pool, untouched).await? == 0, "`updated_at` was touched");
    ensure!(line.dead_letters() == 0, "{} messages are dead", line.dead_letters());
    Ok(Figures {
        what,
        wall,
        limit,
        statements,
        wal,
        limit_wal,
        cpu,
        memory,
    })
}

/// The same starting point for each: the same rows are wrong, nothing is left to write by itself, and no message is known.
async fn spoil(pool: &PgPool) -> Result<()> {
    sqlx::raw_sql(SPOIL).execute(pool).await?;
    // A new queue numbers its messages as the last one did.
    sqlx::raw_sql("DELETE FROM job_runs WHERE job <> 'past'; DELETE FROM search_reindex_runs")
        .execute(pool)
        .await?;
    sqlx::raw_sql("VACUUM ip_assets").execute(pool).await?;
    sqlx::raw_sql("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// Wall time, and bytes of write-ahead log.
async fn measure(pool: &PgPool, work: impl Future<Output = Result<()>>) -> Result<(Duration, i64)> {
    let written = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
    let before = count(pool, written).await?;
    let begun = Instant::now();
    work.await?;
    let wall = begun.elapsed();
    Ok((wall, count(pool, written).await? - before))
}

async fn count(pool: &PgPool, sql: &str) -> Result<i64> {
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(pool)
        .await
        .with_context(|| sql.to_owned())
}

/// As the platform asks, with the plan and its times.
async fn queries(pool: &PgPool) -> Result<()> {
    println!("\nqueries of users at {ASSETS} assets, the second time of two");
    for (what, query, filter) in QUERIES {
        let select = format!(
            "SELECT id, title FROM ip_assets, {query} AS q WHERE deleted_at IS NULL AND search_vector @@ q{filter}
             ORDER BY ts_rank(search_vector, q) DESC, id LIMIT 20"
        );
        let explain = format!("EXPLAIN (ANALYZE, COSTS OFF) {select}");
        let mut plan: Vec<String> = Vec::new();
        for _ in 0..2 {
            plan = sqlx::query_scalar(AssertSqlSafe(explain.clone()))
                .fetch_all(pool)
                .await?;
        }
        let matches = count(
            pool,
            &format!(
                "SELECT count(*) FROM ip_assets, {query} AS q WHERE deleted_at IS NULL AND search_vector @@ q{filter}"
            ),
        )
        .await?;
        println!("\n{what}: {matches} match\n  {}", plan.join("\n  "));
    }
    Ok(())
}
