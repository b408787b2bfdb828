//! outbox-relay
fn main() {}
