//! The runtime as AWS sees it: the built function `fixture`, whose messages say how they end, on real protocols.

mod batch;
mod crashes;
mod deadlines;
mod duplicates;
mod exclusive;
mod faults;
mod intake;
mod logs;
mod outbox;
mod outcomes;
mod support;
