//! Edits of several files, of which all are made or none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[derive(Default)]
pub(super) struct Edits {
    edits: Vec<Edit>,
}

struct Edit {
    path: PathBuf,
    before: Option<String>,
    after: String,
}

impl Edits {
    pub(super) fn create(&mut self, path: PathBuf, text: String) {
        self.edits.push(Edit {
            path,
            before: None,
            after: text,
        });
    }

    pub(super) fn change(&mut self, path: PathBuf, change: impl FnOnce(&str) -> Option<String>) -> Result<()> {
        let before = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let after = change(&before);
        let after = after.with_context(|| format!("{} is not as `jobs new` knows it", path.display()))?;
        self.edits.push(Edit {
            path,
            before: Some(before),
            after,
        });
        Ok(())
    }

    /// Remembers a file that somebody else will change.
    pub(super) fn keep(&mut self, path: PathBuf) -> Result<()> {
        self.change(path, |text| Some(text.to_owned()))
    }

    /// Sources as rustfmt has them; it also refuses what is no Rust.
    pub(super) async fn format(&mut self, root: &Path) -> Result<()> {
        for edit in &mut self.edits {
            if edit.path.extension().is_some_and(|extension| extension == "rs") {
                edit.after = rustfmt(root, &edit.after)
                    .await
                    .with_context(|| format!("could not format {}", edit.path.display()))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// When one file cannot be written; then all are as they were.
    pub(super) fn write(&self) -> Result<()> {
        let write = |edit: &Edit| -> Result<()> {
            if let Some(folder) = edit.path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&edit.path, &edit.after).with_context(|| format!("could not write {}", edit.path.display()))
        };
        self.edits.iter().try_for_each(write).inspect_err(|_| {
            // The first error says more than one of going back.
            let _ = self.undo();
        })
    }

    /// Back to how it was.
    pub(super) fn undo(&self) -> Result<()> {
        for Edit { path, before, .. } in &self.edits {
            match before {
                Some(text) => fs::write(path, text)?,
                None => {
                    let _ = fs::remove_file(path);
                    // Empty folders only, so those that this made.
                    let folders = path.ancestors().skip(1);
                    let _ = folders.take(4).try_for_each(fs::remove_dir);
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        let ours = self.edits.iter().filter(|edit| edit.before.is_none());
        ours.map(|edit| (edit.path.as_path(), edit.after.as_str()))
    }
}

async fn rustfmt(root: &Path, source: &str) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .arg("--config-path")
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("could not start rustfmt")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(source.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("rustfmt: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undone_leaves_no_trace() {
        let root = std::env::temp_dir().join(format!("jobs-edits-{}", std::process::id()));
        fs::create_dir_all(root.join("functions/email/other")).unwrap();
        fs::write(root.join("kept"), "a").unwrap();
        let mut edits = Edits::default();
        edits.create(root.join("functions/email/new/src/main.rs"), "x".into());
        edits
            .change(root.join("kept"), |text| Some(format!("{text}b")))
            .unwrap();
        edits.write().unwrap();
        assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "ab");
        assert!(root.join("functions/email/new/src/main.rs").exists());

        edits.undo().unwrap();
        assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "a");
        assert!(!root.join("functions/email/new").exists() && root.join("functions/email/other").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_source_is_formatted_and_one_that_is_no_rust_refused() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(
            rustfmt(&root, "mod a;fn  f( ){ }").await.unwrap(),
            "mod a;\nfn f() {}\n"
        );
        assert!(rustfmt(&root, "fn match() {}").await.is_err());
    }
}
