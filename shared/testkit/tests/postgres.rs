//! A server of our own, from the machine's programs.

use std::path::Path;

use testkit::postgres::{Cluster, Installation, THROW_AWAY};

#[test]
fn a_cluster_starts_once_and_stops() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let installation = Installation::find(&target.join("../engine")).expect("PostgreSQL 15 or later");
    let cluster = Cluster::new(installation, &target.join("cluster")).unwrap();
    assert_eq!(cluster.running(), None);

    let server = cluster.start(0, THROW_AWAY).unwrap();

    assert_eq!(cluster.start(0, THROW_AWAY).unwrap(), server);
    assert_eq!(cluster.running(), Some(server));
    cluster.stop().unwrap();
    assert_eq!(cluster.running(), None);
    std::fs::remove_dir_all(cluster.data()).unwrap();
}
