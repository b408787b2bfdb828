//! notification-delivery
fn main() {}
