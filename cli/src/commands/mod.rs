//! One file per command.

pub(crate) mod down;
pub(crate) mod enqueue;
pub(crate) mod logs;
pub(crate) mod runs;
pub(crate) mod status;
pub(crate) mod up;
