//! A PostgreSQL server of our own: found, initialised, started and stopped without any set-up.
//!
//! `jobs up` and the tests share this. The server listens on loopback only and trusts who connects, as
//! befits throw-away data. It refuses to run as root, so root hands it to an unprivileged account; where that
//! account cannot reach the repository, the files move to `/var/tmp`.

mod installation;
mod owner;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
pub use installation::Installation;
use owner::Owner;

/// Settings for data that nobody will miss: no write waits for the disk.
pub const THROW_AWAY: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
];

/// One data directory and the server programs that run it.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    data: PathBuf,
    owner: Owner,
}

/// A server that accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The port on 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// The address of one of its databases; every cluster has a database `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Cluster {
    /// A cluster whose files are to be in `data`, or in `/var/tmp` when the server's account cannot reach `data`.
    pub fn new(installation: Installation, data: &Path) -> Result<Self> {
        let owner = Owner::find()?;
        let data = std::path::absolute(data)?;
        let data = if owner.reaches(&data) {
            data
        } else {
            owner::refuge("/var/tmp", "data", &data)
        };
        Ok(Self {
            installation: installation.reachable_for(&owner)?,
            data,
            owner,
        })
    }

    /// Where the files really are.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Whether its files take memory.
    pub fn is_in_memory(&self) -> bool {
        self.data.starts_with(MEMORY)
    }

    /// The server, if it is up.
    pub fn running(&self) -> Option<Server> {
        let pid_file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        // A crash leaves the file behind; only the server's own tool can tell.
        self.pg_ctl(&["status"]).ok()?;
        Some(Server {
            port: pid_file.lines().nth(3)?.trim().parse().ok()?,
        })
    }

    /// The server, started when it is not up, initialised when it is new. `port` 0 takes any free one. Settings
    /// (`("fsync", "off")`) only reach a server that starts. Any number of processes may call this at once.
    pub fn start(&self, port: u16, settings: &[(&str, &str)]) -> Result<Server> {
        let parent = self.data.parent().context("a data directory has a parent")?;
        fs::create_dir_all(parent)?;
        let lock = File::create(self.data.with_extension("lock"))?;
        lock.lock()?;
        if let Some(server) = self.running() {
            return Ok(server);
        }
        self.initialise()?;
        let port = if port == 0 { free_port()? } else { port };
        self.launch(port, settings)?;
        Ok(Server { port })
    }

    /// Stops the server at once; its data stays. Nothing happens when it is not up.
    pub fn stop(&self) -> Result<()> {
        if self.running().is_some() {
            self.pg_ctl(&["stop", "-w", "-m", "fast"])?;
        }
        Ok(())
    }

    fn initialise(&self) -> Result<()> {
        if self.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.data)?;
        self.owner.give(&self.data)?;
        let mut initdb = self.owner.command(&self.installation.program("initdb"));
        initdb.args([
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        owner::run(initdb.arg("--pgdata").arg(&self.data))
    }

    fn launch(&self, port: u16, settings: &[(&str, &str)]) -> Result<()> {
        let mut options = format!("-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=");
        for (name, value) in settings {
            options.push_str(&format!(" -c {name}={value}"));
        }
        let log = self.data.join("server.log");
        let started = self.pg_ctl(&["start", "-w", "-l", &log.to_string_lossy(), "-o", &options]);
        started.with_context(|| format!("PostgreSQL did not start; it says why in {}", log.display()))
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        owner::run(
            self.owner
                .command(&self.installation.program("pg_ctl"))
                .arg("-D")
                .arg(&self.data)
                .args(arguments),
        )
    }
}

/// The cluster of the tests, one for each version, because no version reads another's files; `None` when the machine has no fit
/// PostgreSQL. It stays up from one run to the next. Its files are in memory where there is room, else below `target`: each test makes
/// and drops hundreds of them, and a disk's file system was found to take two thirds of all the tests' time for that.
///
/// # Errors
///
/// When the machine has no account that may run it.
pub fn tests() -> Result<Option<Cluster>> {
    let target = Path::new(crate::ROOT).join("target");
    let cluster = |installation: Installation| {
        let data = target.join(format!("postgres-{}", installation.version()));
        let in_memory = owner::refuge(MEMORY, "tests", &data);
        // Where it is once, it stays.
        let data = if in_memory.exists() || has_room(MEMORY) {
            in_memory
        } else {
            data
        };
        Cluster::new(installation, &data)
    };
    Installation::find(&target.join("engine")).map(cluster).transpose()
}

/// Linux keeps these files in memory.
const MEMORY: &str = "/dev/shm";

/// Whether there are two gibibytes left, several times what the tests were seen to take.
fn has_room(directory: &str) -> bool {
    let df = Command::new("df")
        .args(["--output=avail", "--block-size=1M", directory])
        .output();
    let said = df.map(|output| output.stdout).unwrap_or_default();
    let left = String::from_utf8_lossy(&said)
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse::<u64>().ok());
    left.is_some_and(|mebibytes| mebibytes >= 2048)
}

/// A port that nobody listens on right now.
pub fn free_port() -> Result<u16> {
    match TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port() {
        0 => bail!("no free port on 127.0.0.1"),
        port => Ok(port),
    }
}
