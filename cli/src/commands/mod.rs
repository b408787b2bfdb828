//! One file per command.

pub(crate) mod backfill;
pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod enqueue;
pub(crate) mod logs;
pub(crate) mod new;
pub(crate) mod runs;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod up;
