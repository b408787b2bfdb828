//! The messages of all jobs, a file for each domain, and one for what SES sends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Id, Message, Timestamp};

mod analytics;
mod assets;
mod email;
mod email_events;
mod notifications;
mod search;
mod system;

pub use analytics::*;
pub use assets::*;
pub use email::*;
pub use email_events::*;
pub use notifications::*;
pub use search::*;
pub use system::*;
