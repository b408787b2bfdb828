//! jobs
fn main() {}
