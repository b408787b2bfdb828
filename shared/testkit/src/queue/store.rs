//! The messages and the rules that SQS gives them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Clock, Message, Redrive, Rules};

/// The longest that SQS hides a message.
const LONGEST_VISIBILITY: Duration = Duration::from_secs(43_200);

/// What a producer gives.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) body: Arc<str>,
    pub(super) attributes: Arc<BTreeMap<String, String>>,
    pub(super) delay: Duration,
}

impl Draft {
    pub(super) fn new(body: &str, attributes: BTreeMap<String, String>, delay: Duration) -> Self {
        // Most messages have none; then they share it.
        static NONE: LazyLock<Arc<BTreeMap<String, String>>> = LazyLock::new(Arc::default);
        let attributes = if attributes.is_empty() {
            NONE.clone()
        } else {
            Arc::new(attributes)
        };
        Self {
            body: body.into(),
            attributes,
            delay,
        }
    }
}

/// What a consumer gets.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) id: Id,
    pub(super) receipt: Receipt,
    pub(super) body: Arc<str>,
    pub(super) attributes: Arc<BTreeMap<String, String>>,
    pub(super) receives: u32,
    pub(super) sent_ms: u64,
    pub(super) first_received_ms: u64,
}

/// What the producer was told; two copies of a message have the same.
pub(super) type Id = u64;

/// Opens the message until it is received again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    copy: u64,
    receives: u32,
}

#[derive(Debug)]
struct Held {
    id: Id,
    body: Arc<str>,
    attributes: Arc<BTreeMap<String, String>>,
    receives: u32,
    sent_ms: u64,
    first_received_ms: u64,
    /// Later than now: delayed, or received and hidden.
    visible_at: Duration,
    is_copy: bool,
}

#[derive(Debug, Default)]
struct One {
    rules: Rules,
    messages: BTreeMap<u64, Held>,
    ready: VecDeque<u64>,
    /// May hold entries of messages that are gone or whose time changed.
    due: BinaryHeap<Reverse<(Duration, u64)>>,
}

#[derive(Debug)]
pub(super) struct Store {
    queues: HashMap<String, One>,
    clock: Clock,
    started: Instant,
    epoch: Duration,
    moved: Duration,
    serial: u64,
    chance: fastrand::Rng,
    duplicates: f64,
    reorder: bool,
}

impl Store {
    pub(super) fn new(clock: Clock, seed: u64) -> Self {
        Self {
            queues: HashMap::new(),
            clock,
            started: Instant::now(),
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            moved: Duration::ZERO,
            serial: 0,
            chance: fastrand::Rng::with_seed(seed),
            duplicates: 0.0,
            reorder: false,
        }
    }

    pub(super) fn misbehave(&mut self, duplicates: f64, reorder: bool) {
        self.duplicates = duplicates;
        self.reorder = reorder;
    }

    /// Since 1970.
    fn now(&self) -> Duration {
        let passed = match self.clock {
            Clock::Real => self.started.elapsed(),
            Clock::Virtual => Duration::ZERO,
        };
        self.epoch + passed + self.moved
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.moved += by;
    }

    pub(super) fn configure(&mut self, queue: &str, rules: Rules) {
        self.one(queue).rules = rules;
    }

    pub(super) fn rules(&mut self, queue: &str) -> Rules {
        self.one(queue).rules.clone()
    }

    fn one(&mut self, queue: &str) -> &mut One {
        // `entry` would need an owned name each time.
        if !self.queues.contains_key(queue) {
            self.queues.insert(queue.to_owned(), One::default());
        }
        self.queues.get_mut(queue).expect("it was just inserted")
    }

    pub(super) fn send(&mut self, queue: &str, draft: Draft) -> Id {
        let now = self.now();
        self.serial += 1;
        let id = self.serial;
        let held = Held {
            id,
            body: draft.body,
            attributes: draft.attributes,
            receives: 0,
            sent_ms: millis(now),
            first_received_ms: 0,
            visible_at: now + draft.delay,
            is_copy: false,
        };
        self.one(queue).put(id, held, now);
        id
    }

    /// Up to `most` visible messages, no two with the same id; they are hidden from now on.
    pub(super) fn receive(&mut self, queue: &str, most: usize, hide: Option<Duration>) -> Vec<Delivery> {
        let now = self.now();
        let Rules { visibility, redrive } = self.rules(queue);
        let hide = hide.unwrap_or(visibility);
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut twins = Vec::new();
        while deliveries.len() < most {
            let waiting = self.one(queue).wake(now);
            let index = if self.reorder && waiting > 0 {
                self.chance.usize(..waiting)
            } else {
                0
            };
            let one = self.one(queue);
            let Some(key) = one.ready.swap_remove_front(index) else {
                break;
            };
            let Some(held) = one.messages.get_mut(&key) else {
                continue;
            };
            if deliveries.iter().any(|delivery| delivery.id == held.id) {
                twins.push(key);
                continue;
            }
            if let Some(Redrive {
                max_receives,
                dead_letters,
            }) = &redrive
                && held.receives >= *max_receives
            {
                self.bury(queue, key, dead_letters, now);
                continue;
            }
            held.receives += 1;
            if held.first_received_ms == 0 {
                held.first_received_ms = millis(now);
            }
            held.visible_at = now + hide;
            one.due.push(Reverse((held.visible_at, key)));
            deliveries.push(held.deliver(key));
            if !held.is_copy && held.receives == 1 && self.duplicates > 0.0 {
                self.duplicate(queue, key, now, hide);
            }
        }
        self.one(queue).ready.extend(twins);
        deliveries
    }

    fn bury(&mut self, queue: &str, key: u64, graveyard: &str, now: Duration) {
        if let Some(held) = self.one(queue).messages.remove(&key) {
            self.serial += 1;
            let key = self.serial;
            self.one(graveyard).put(
                key,
                Held {
                    receives: 0,
                    visible_at: now,
                    ..held
                },
                now,
            );
        }
    }

    /// SQS is at-least-once: now and then it gives a message out again, while the first receiver still works or
    /// long after it has deleted it.
    fn duplicate(&mut self, queue: &str, key: u64, now: Duration, hide: Duration) {
        if self.chance.f64() >= self.duplicates {
            return;
        }
        let visible_at = if self.chance.bool() {
            now
        } else {
            now + hide.mul_f64(self.chance.f64())
        };
        self.serial += 1;
        let copy = self.serial;
        let one = self.one(queue);
        if let Some(held) = one.messages.get(&key) {
            let held = Held {
                id: held.id,
                body: held.body.clone(),
                attributes: held.attributes.clone(),
                is_copy: true,
                visible_at,
                ..*held
            };
            one.put(copy, held, now);
        }
    }

    /// Nothing happens when the message was received again meanwhile, or is gone.
    pub(super) fn delete(&mut self, queue: &str, receipt: Receipt) {
        let one = self.one(queue);
        if one
            .messages
            .get(&receipt.copy)
            .is_some_and(|held| held.receives == receipt.receives)
        {
            one.messages.remove(&receipt.copy);
        }
    }

    /// `false` when the message is not in flight under this receipt.
    pub(super) fn hide(&mut self, queue: &str, receipt: Receipt, visibility: Duration) -> bool {
        let now = self.now();
        let one = self.one(queue);
        let Some(held) = one.messages.get_mut(&receipt.copy) else {
            return false;
        };
        if held.receives != receipt.receives || held.visible_at <= now {
            return false;
        }
        held.visible_at = now + visibility.min(LONGEST_VISIBILITY);
        one.due.push(Reverse((held.visible_at, receipt.copy)));
        true
    }

    /// How long until the next hidden message is due; zero when one is visible, `None` when there is none at all.
    pub(super) fn next_due(&mut self, queue: &str) -> Option<Duration> {
        let now = self.now();
        let one = self.one(queue);
        one.wake(now);
        // A message may be deleted while it waits to be received again.
        one.ready.retain(|key| one.messages.contains_key(key));
        if !one.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        one.due.peek().map(|Reverse((at, _))| at.saturating_sub(now))
    }

    /// Visible, in flight, delayed.
    pub(super) fn counts(&mut self, queue: &str) -> [usize; 3] {
        let now = self.now();
        let mut counts = [0; 3];
        for held in self.one(queue).messages.values() {
            let kind = match held {
                held if held.visible_at <= now => 0,
                held if held.receives > 0 => 1,
                _ => 2,
            };
            counts[kind] += 1;
        }
        counts
    }

    pub(super) fn messages(&mut self, queue: &str) -> Vec<Message> {
        let now = self.now();
        let held = self.one(queue).messages.values();
        held.map(|held| Message {
            id: show_id(held.id),
            body: held.body.to_string(),
            attributes: (*held.attributes).clone(),
            receives: held.receives,
            hidden_for: held.visible_at.saturating_sub(now),
        })
        .collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }
}

impl One {
    fn put(&mut self, key: u64, held: Held, now: Duration) {
        if held.visible_at <= now {
            self.ready.push_back(key);
        } else {
            self.due.push(Reverse((held.visible_at, key)));
        }
        self.messages.insert(key, held);
    }

    /// Moves what is due to what is ready; says how many are ready.
    fn wake(&mut self, now: Duration) -> usize {
        while let Some(&Reverse((at, key))) = self.due.peek() {
            let valid = self.messages.get(&key).is_some_and(|held| held.visible_at == at);
            if valid && at > now {
                break;
            }
            // More than one entry, if its time was set twice to the same.
            while self.due.peek() == Some(&Reverse((at, key))) {
                self.due.pop();
            }
            if valid {
                self.ready.push_back(key);
            }
        }
        self.ready.len()
    }
}

impl Held {
    fn deliver(&self, key: u64) -> Delivery {
        Delivery {
            id: self.id,
            receipt: Receipt {
                copy: key,
                receives: self.receives,
            },
            body: self.body.clone(),
            attributes: self.attributes.clone(),
            receives: self.receives,
            sent_ms: self.sent_ms,
            first_received_ms: self.first_received_ms,
        }
    }
}

pub(super) fn show_id(id: Id) -> String {
    format!("00000000-0000-4000-8000-{id:012x}")
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:x}.{}", self.copy, self.receives)
    }
}

impl std::str::FromStr for Receipt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (copy, receives) = text.split_once('.').ok_or(())?;
        Ok(Self {
            copy: u64::from_str_radix(copy, 16).map_err(|_| ())?,
            receives: receives.parse().map_err(|_| ())?,
        })
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
