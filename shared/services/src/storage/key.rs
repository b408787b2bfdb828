use std::fmt;

/// Where nothing lies that a person has uploaded.
const RESERVED: [&str; 5] = [QUARANTINE, "derived/", "clamav/", "logos/", "temp/"];
/// Where infected files lie.
const QUARANTINE: &str = "quarantine/";
/// S3's limit, in bytes.
const LONGEST: usize = 1024;

/// The key of an object (spec: assets 0.5). Names of files are their owners': it does not show in logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// All objects whose keys begin with it: a folder, with the slash. There is no folder of everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder(String);

/// The text is no key of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key {0}")]
pub struct InvalidKey(&'static str);

impl ObjectKey {
    /// The key of any object.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let wrong = if text.is_empty() || text.len() > LONGEST {
            "has no bytes, or more than 1024"
        } else if text.chars().any(char::is_control) {
            "has a control character"
        } else if text.contains("..") || text.contains("//") || text.contains('\\') {
            "has `..`, `//` or a backslash"
        } else if text.starts_with('/') || text.ends_with('/') {
            "begins or ends with a slash"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(InvalidKey(wrong))
    }

    /// The key of an original: of what a person has uploaded, or of what was scanned of it.
    pub fn original(text: &str) -> Result<Self, InvalidKey> {
        if RESERVED.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(InvalidKey("begins with a reserved prefix"));
        }
        Self::new(text)
    }

    /// The key as S3 has it, whatever somebody once called the object.
    pub(super) fn listed(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The key as S3 wants it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.0.starts_with(QUARANTINE)
    }

    /// Whether the object lies in the folder.
    pub fn is_in(&self, folder: &Folder) -> bool {
        self.0.starts_with(&folder.0)
    }
}

impl Folder {
    /// What lies below `<kind>/<id>/`.
    pub fn new(kind: &str, id: &str) -> Result<Self, InvalidKey> {
        if kind.contains('/') || id.contains('/') || kind.is_empty() || id.is_empty() {
            return Err(InvalidKey("is not of one folder"));
        }
        ObjectKey::new(&format!("{kind}/{id}")).map(|key| Self(key.0 + "/"))
    }

    /// The prefix of all its keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.0.starts_with(QUARANTINE)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, _) = self.0.split_once('/').unwrap_or(("", ""));
        write!(f, "ObjectKey({first}/…)")
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folder({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_what_s3_takes_and_no_path_that_leads_elsewhere() {
        for good in ["a", "uploads/u1/a1/my photo (1).jpg", "u1/a1/é.png", &"x".repeat(1024)] {
            assert_eq!(ObjectKey::new(good).map(|key| key.0), Ok(good.to_owned()), "{good}");
        }
        let long = "x".repeat(1025);
        let bad = [
            "", &long, "a\u{7f}", "a\nb", "a/../b", "a..b", "a//b", "a\\b", "/a", "a/",
        ];
        for bad in bad {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectKey::new(&"é".repeat(513)).is_err(), "it is bytes that count");
    }

    #[test]
    fn an_original_lies_nowhere_that_is_reserved() {
        for good in [
            "uploads/u1/a1/x.jpg",
            "u1/a1/x.jpg",
            "assets/a1/9f86d081884c/original.jpg",
            "temporary/x",
        ] {
            assert!(ObjectKey::original(good).is_ok(), "{good}");
        }
        for bad in [
            "quarantine/a1/x",
            "derived/a1/x",
            "clamav/current.json",
            "logos/x.png",
            "temp/x",
            "a//b",
        ] {
            assert!(ObjectKey::original(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_of_one_asset_and_never_of_all() {
        assert_eq!(Folder::new("derived", "a1").unwrap().as_str(), "derived/a1/");
        for id in ["", "a/b", "..", "a\\b", "a\n"] {
            assert!(Folder::new("derived", id).is_err(), "{id:?}");
        }
        assert!(Folder::new("", "a1").is_err());
        let folder = Folder::new("derived", "a1").unwrap();
        assert!(ObjectKey::new("derived/a1/x").unwrap().is_in(&folder));
        assert!(!ObjectKey::new("derived/a12/x").unwrap().is_in(&folder));
    }

    #[test]
    fn a_key_does_not_show_what_a_file_is_called() {
        let key = ObjectKey::new("uploads/u1/a1/my divorce.pdf").unwrap();
        assert_eq!(format!("{key:?}"), "ObjectKey(uploads/…)");
    }

    proptest! {
        #[test]
        fn what_passes_is_short_and_clean(text in ".{0,40}") {
            if let Ok(key) = ObjectKey::original(&text) {
                prop_assert_eq!(key.as_str(), &text);
                prop_assert!(!text.contains("..") && !text.starts_with('/') && !text.chars().any(char::is_control));
            }
        }
    }
}
