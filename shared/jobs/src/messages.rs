//! The messages of all jobs, a file for each domain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Id, Message, Timestamp};

mod email;
mod notifications;
mod system;

pub use email::*;
pub use notifications::*;
pub use system::*;
