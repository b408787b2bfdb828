//! The catalog, the folders and the checked-in manifest tell the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jobs::catalog;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_dir()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn every_function_has_a_crate_and_every_crate_has_a_function() {
    let built = catalog::ALL.iter().filter(|spec| !spec.awaits_function);
    let jobs = built.map(|spec| (spec.domain(), spec.name()));
    let endpoints = catalog::ENDPOINTS
        .iter()
        .map(|endpoint| (endpoint.domain(), endpoint.name()));
    let declared: BTreeSet<_> = jobs
        .chain(endpoints)
        .map(|(domain, name)| format!("{domain}/{name}"))
        .collect();
    let crates: BTreeSet<_> = folders(&Path::new(ROOT).join("functions"))
        .iter()
        .flat_map(|domain| {
            folders(domain)
                .into_iter()
                .map(|job| format!("{}/{}", name(domain), name(&job)))
        })
        .collect();
    assert_eq!(
        crates, declared,
        "folders of functions/ on the left, shared/jobs/src/catalog.rs on the right"
    );
    for path in crates {
        let job = path.split_once('/').unwrap().1;
        let manifest = fs::read_to_string(format!("{ROOT}/functions/{path}/Cargo.toml")).unwrap();
        assert!(
            manifest.contains(&format!("\nname = \"{job}\"\n")),
            "functions/{path} is not the crate `{job}`"
        );
    }
}

#[test]
fn every_function_has_an_event_and_every_event_has_a_function() {
    let declared: BTreeSet<_> = catalog::functions().map(str::to_owned).collect();
    let with_events: BTreeSet<_> = folders(&Path::new(ROOT).join("events"))
        .into_iter()
        .filter(|folder| {
            let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
            files
                .into_iter()
                .any(|file| file.extension().is_some_and(|e| e == "json"))
        })
        .map(|folder| name(&folder))
        .collect();
    assert_eq!(
        with_events, declared,
        "folders of events/ on the left, shared/jobs/src/catalog.rs on the right"
    );
}

#[test]
fn the_manifest_that_is_deployed_is_the_catalog_that_is_built() {
    let text = fs::read_to_string(format!("{ROOT}/infra/catalog.json")).unwrap();
    let deployed: Value = serde_json::from_str(&text).unwrap();
    assert!(
        deployed == jobs::manifest(),
        "infra/catalog.json is stale: cargo jobs catalog --json > infra/catalog.json"
    );
}
