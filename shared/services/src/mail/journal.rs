//! What this process is about to send, where its successor finds it.
//!
//! A claim is committed before SES is called; a process that is killed between the two leaves rows that nobody can tell from mails
//! that left. A file outlives the process (in Lambda `/tmp` lives as long as the execution environment), so the calls that were
//! begun are noted there, right before their bytes leave: what was claimed and not begun goes back to the queue, and only what was
//! begun is in doubt.
//!
//! # Invariants
//!
//! * A token is noted before its claim, a call before its bytes. A note that cannot be written ends the journal: then everything
//!   claimed is in doubt, as without one.
//! * A journal belongs to the process that holds its lock; the kernel lets go of it when the process dies, and not before.
//! * Tokens are never used twice, so an old journal cannot touch a later claim.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The journal of this process.
#[derive(Debug)]
pub(super) struct Journal {
    state: Mutex<Option<State>>,
    path: PathBuf,
}

#[derive(Debug)]
struct State {
    file: File,
    open: HashSet<String>,
}

/// A claim of a process that is gone, and the mails whose calls it had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abandoned {
    pub token: String,
    pub begun: Vec<String>,
}

impl Journal {
    /// A journal in the folder of one database. Without one (no disk, no permission) every claim of a killed process is in doubt.
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join(format!("{:032x}", rand::random::<u128>()));
        let create = || -> io::Result<File> {
            fs::create_dir_all(folder)?;
            let file = File::create_new(&path)?;
            file.lock()?;
            Ok(file)
        };
        let file = create()
            .inspect_err(|error| tracing::warn!(%error, "mail is sent without a journal"))
            .ok();
        Self {
            state: Mutex::new(file.map(|file| State {
                file,
                open: HashSet::new(),
            })),
            path,
        }
    }

    /// Notes that `token` is about to claim.
    pub(super) fn claim(&self, token: &str) {
        self.note(|state| {
            state.open.insert(token.to_owned());
            writeln!(state.file, "claim {token}")
        });
    }

    /// Notes that the call for a mail is about to leave.
    pub(super) fn begin(&self, token: &str, mail: &str) {
        self.note(|state| state.file.write_all(format!("begin {token} {mail}\n").as_bytes()));
    }

    /// Notes that the ledger knows what became of `token`.
    pub(super) fn settle(&self, token: &str) {
        self.note(|state| {
            state.open.remove(token);
            if state.open.is_empty() {
                truncate(&mut state.file)
            } else {
                writeln!(state.file, "settle {token}")
            }
        });
    }

    fn note(&self, write: impl FnOnce(&mut State) -> io::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = state.as_mut().map(write) {
            tracing::warn!(%error, "the mail journal ends");
            *state = None;
            // Half a journal would call begun mails unbegun.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn truncate(file: &mut File) -> io::Result<()> {
    use std::io::Seek;
    file.set_len(0)?;
    file.rewind()
}

impl Drop for Journal {
    fn drop(&mut self) {
        let settled = self
            .state
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|state| state.open.is_empty());
        if settled {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The journals of dead processes in a folder. They stay locked until dropped, so that one successor takes each.
pub(super) fn abandoned(folder: &Path) -> Vec<Remains> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Remains::take(entry.path())).collect()
}

/// The journal of a dead process.
#[derive(Debug)]
pub(super) struct Remains {
    path: PathBuf,
    _lock: File,
    pub claims: Vec<Abandoned>,
}

impl Remains {
    fn take(path: PathBuf) -> Option<Self> {
        let mut file = File::options().read(true).write(true).open(&path).ok()?;
        file.try_lock().ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        Some(Self {
            claims: claims(&text),
            _lock: file,
            path,
        })
    }

    /// The ledger has taken the claims back.
    pub(super) fn bury(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn claims(text: &str) -> Vec<Abandoned> {
    let mut open: HashMap<&str, Vec<String>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("claim"), Some(token), None) => drop(open.entry(token).or_default()),
            (Some("begin"), Some(token), Some(mail)) => open.entry(token).or_default().push(mail.to_owned()),
            (Some("settle"), Some(token), None) => drop(open.remove(token)),
            _ => {}
        }
    }
    open.into_iter()
        .map(|(token, begun)| Abandoned {
            token: token.to_owned(),
            begun,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("journal-test-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_successor_learns_what_was_claimed_and_what_was_begun() {
        let folder = Folder::new("successor");
        let journal = Journal::open(&folder.0);
        journal.claim("a");
        journal.begin("a", "mail-1");
        journal.settle("a");
        journal.claim("b");
        journal.begin("b", "mail-2");
        journal.claim("c");
        assert!(abandoned(&folder.0).is_empty(), "a living process keeps its journal");
        // What the kernel does when a process is killed.
        *journal.state.lock().unwrap() = None;
        let remains = abandoned(&folder.0);
        let mut claims = remains[0].claims.clone();
        claims.sort_by(|a, b| a.token.cmp(&b.token));
        let expected = [("b", vec!["mail-2".to_owned()]), ("c", vec![])];
        assert_eq!(
            claims,
            expected.map(|(token, begun)| Abandoned {
                token: token.to_owned(),
                begun
            })
        );
        remains.into_iter().for_each(Remains::bury);
        assert!(abandoned(&folder.0).is_empty());
    }

    #[test]
    fn a_torn_line_is_no_note() {
        assert_eq!(
            claims("claim a\nbeg"),
            [Abandoned {
                token: "a".into(),
                begun: vec![]
            }]
        );
        assert_eq!(
            claims("claim a\nclaim b\nsettle b\nbegin a m extra"),
            [Abandoned {
                token: "a".into(),
                begun: vec!["m".into()]
            }]
        );
    }

    #[test]
    fn a_settled_journal_goes_with_its_process() {
        let folder = Folder::new("settled");
        let journal = Journal::open(&folder.0);
        journal.claim("a");
        journal.settle("a");
        drop(journal);
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }
}
