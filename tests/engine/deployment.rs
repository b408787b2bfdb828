//! One deployment of everything in the local engine: an account, a database and functions of its own, gone when dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PREFIX: &str = "yg-";

/// Everything, deployed for one test.
pub(crate) struct Deployment {
    pub(crate) db: PgPool,
    sqs: Client,
    environment: HashMap<String, String>,
    /// The addresses of endpoints, by name.
    endpoints: HashMap<String, String>,
    admin_url: String,
    database: String,
}

impl Deployment {
    /// Deploys into an account that no one else uses.
    ///
    /// # Panics
    ///
    /// When the engine is not up: `cargo jobs test` and `cargo jobs up` start it.
    pub(crate) async fn new(name: &str) -> Self {
        let mut environment = engine();
        static DEPLOYMENTS: AtomicU32 = AtomicU32::new(0);
        let number = DEPLOYMENTS.fetch_add(1, Ordering::Relaxed);
        let account = format!("1{:08}{number:03}", std::process::id());
        let database = format!("{name}_{}", std::process::id());
        let admin_url = environment["DATABASE_URL"].clone();
        let (server, _) = admin_url.rsplit_once('/').expect("a URL with a database");
        let url = format!("{server}/{database}");
        let admin = PgPool::connect(&admin_url).await.expect("the engine's database");
        let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"));
        sqlx::raw_sql(sql).execute(&admin).await.expect("a database of our own");
        let db = PgPool::connect(&url).await.expect("our database");
        let migrations = sqlx::migrate::Migrator::new(Path::new(ROOT).join("migrations"))
            .await
            .expect("migrations");
        migrations.run(&db).await.expect("a migrated database");
        environment.insert("AWS_ACCESS_KEY_ID".into(), account);
        environment.insert("DATABASE_URL".into(), url);
        let mut deployment = Self {
            sqs: Client::new(&sdk(&environment).await),
            db,
            environment,
            endpoints: HashMap::new(),
            admin_url,
            database,
        };
        let said = deployment.infrastructure(&[]);
        let outputs = said.lines().find_map(|line| serde_json::from_str(line).ok());
        let outputs: serde_json::Value = outputs.expect("what was deployed");
        for (name, url) in outputs["ENDPOINTS"].as_object().into_iter().flatten() {
            let url = url.as_str().unwrap_or_default().to_owned();
            deployment.endpoints.insert(name.clone(), url);
        }
        deployment
    }

    fn infrastructure(&self, arguments: &[&str]) -> String {
        let own_node = Path::new(ROOT).join("target/engine/node/bin");
        let path = std::env::join_paths(
            std::iter::once(own_node).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let mut node = Command::new("node");
        node.args(["--import", "tsx", "deploy-local.ts"])
            .args(arguments)
            .current_dir(Path::new(ROOT).join("infra"));
        let output = node
            .env("PATH", path.expect("a PATH"))
            .envs(&self.environment)
            .output()
            .expect("node runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends messages by tens.
    pub(crate) async fn send(&self, job: &str, bodies: &[String]) {
        let url = self.url(job).await;
        for batch in bodies.chunks(10) {
            let entry = |(id, body): (usize, &String)| {
                SendMessageBatchRequestEntry::builder()
                    .id(id.to_string())
                    .message_body(body)
                    .build()
                    .expect("an entry has an id and a body")
            };
            let entries = batch.iter().enumerate().map(entry).collect();
            let answer = self
                .sqs
                .send_message_batch()
                .queue_url(&url)
                .set_entries(Some(entries))
                .send()
                .await
                .expect("the queue takes messages");
            assert!(answer.failed().is_empty(), "{:?}", answer.failed());
        }
    }

    async fn url(&self, queue: &str) -> String {
        let found = self
            .sqs
            .get_queue_url()
            .queue_name(format!("{PREFIX}{queue}"))
            .send()
            .await;
        found.expect("the queue exists").queue_url.expect("a queue has a URL")
    }

    /// Messages in a queue, visible or not.
    pub(crate) async fn depth(&self, queue: &str) -> u64 {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
        };
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        ];
        let call = self
            .sqs
            .get_queue_attributes()
            .queue_url(self.url(queue).await)
            .set_attribute_names(Some(names.to_vec()));
        let answer = call.send().await.expect("the queue answers");
        answer
            .attributes
            .unwrap_or_default()
            .values()
            .filter_map(|count| count.parse::<u64>().ok())
            .sum()
    }

    /// One message of a queue with its attributes; it stays there.
    pub(crate) async fn peek(&self, queue: &str) -> (String, HashMap<String, String>) {
        let call = self
            .sqs
            .receive_message()
            .queue_url(self.url(queue).await)
            .message_attribute_names("All")
            .visibility_timeout(0)
            .wait_time_seconds(1);
        let answer = call.send().await.expect("the queue answers");
        let message = answer.messages.unwrap_or_default().pop().expect("a message");
        let attributes = message.message_attributes.unwrap_or_default();
        let text = |value: aws_sdk_sqs::types::MessageAttributeValue| value.string_value.unwrap_or_default();
        (
            message.body.unwrap_or_default(),
            attributes
                .into_iter()
                .map(|(name, value)| (name, text(value)))
                .collect(),
        )
    }

    /// The function processes of this deployment: nobody else has its database in the environment.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("DATABASE_URL={}", self.environment["DATABASE_URL"]);
        let ours = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id() && ours(pid))
            .collect()
    }

    /// `kill -9` for all of them; answers how many there were.
    pub(crate) fn kill_functions(&self) -> usize {
        let processes = self.processes();
        for pid in &processes {
            // One that has gone meanwhile needs no killing.
            let _ = Command::new("kill")
                .args(["-9", &pid.to_string()])
                .stderr(std::process::Stdio::null())
                .status();
        }
        processes.len()
    }

    /// Every mail that SES has taken in this account.
    pub(crate) async fn mails(&self) -> Vec<serde_json::Value> {
        let (_, body) = self.call("ses", "GET", "/_ministack/ses/messages", "").await;
        let value: serde_json::Value = serde_json::from_slice(&body).expect("the mails as JSON");
        let account = &self.environment["AWS_ACCESS_KEY_ID"];
        value["messages"][account].as_array().cloned().unwrap_or_default()
    }

    /// Publishes on a topic, as a service of AWS does.
    pub(crate) async fn publish(&self, topic: &str, message: &str) {
        let (region, account) = (&self.environment["AWS_REGION"], &self.environment["AWS_ACCESS_KEY_ID"]);
        let encode = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        let topic = encode(&format!("arn:aws:sns:{region}:{account}:{PREFIX}{topic}"));
        let form = format!(
            "Action=Publish&Version=2010-03-31&TopicArn={topic}&Message={}",
            encode(message)
        );
        let (status, body) = self.call("sns", "POST", "/", &form).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }

    /// Posts a form to an endpoint, as anybody can; answers the status.
    pub(crate) async fn post(&self, endpoint: &str, path: &str, form: &str) -> u16 {
        let url = format!("{}{path}", self.endpoints[endpoint]);
        let path = url.trim_start_matches(&self.environment["AWS_ENDPOINT_URL"]);
        self.call("lambda", "POST", path, form).await.0
    }

    /// A request to the engine: the status, and the body of the answer.
    async fn call(&self, service: &str, method: &str, path: &str, form: &str) -> (u16, Vec<u8>) {
        let host = self.environment["AWS_ENDPOINT_URL"].trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).await.expect("the engine listens");
        let credential = &self.environment["AWS_ACCESS_KEY_ID"];
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={credential}/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: {authorization}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        stream.write_all(request.as_bytes()).await.expect("a request leaves");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer comes");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.map_or(0, |end| end + 4));
        let status = String::from_utf8_lossy(head)
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.infrastructure(&["--remove"]);
            self.kill_functions();
            let (admin_url, database) = (self.admin_url.clone(), self.database.clone());
            // A connection of its own: the test's runtime is on its way out.
            let dropped = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let admin = PgPool::connect(&admin_url).await.map_err(std::io::Error::other)?;
                    let sql = sqlx::AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"));
                    sqlx::raw_sql(sql).execute(&admin).await.map_err(std::io::Error::other)
                })
            });
            let _ = dropped.join();
        }
    }
}

fn engine() -> HashMap<String, String> {
    let file = PathBuf::from(ROOT).join("target/local/env");
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|_| panic!("the local engine is not up: `cargo jobs up`, or `cargo jobs test` for everything"));
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

async fn sdk(environment: &HashMap<String, String>) -> aws_config::SdkConfig {
    let credentials = Credentials::new(&environment["AWS_ACCESS_KEY_ID"], "local", None, None, "black box");
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(&environment["AWS_ENDPOINT_URL"])
        .region(Region::new(environment["AWS_REGION"].clone()))
        .credentials_provider(credentials)
        .load()
        .await
}

/// Asks again every so often until the answer is yes.
///
/// # Panics
///
/// With what it waited for, when patience is over.
pub(crate) async fn until(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let waiting = async {
        loop {
            tick.tick().await;
            if holds().await {
                return;
            }
        }
    };
    tokio::time::timeout(patience, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {patience:?}"));
}
