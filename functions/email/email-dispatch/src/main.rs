//! email-dispatch
fn main() {}
