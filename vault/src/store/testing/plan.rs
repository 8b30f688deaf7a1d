//! What goes wrong, and when.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// The calls of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `put`.
    Put,
    /// `get`.
    Get,
    /// `get_range`.
    GetRange,
    /// `stat`.
    Stat,
    /// `list`.
    List,
    /// `list_folders`.
    ListFolders,
    /// `delete`.
    Delete,
    /// `sweep`.
    Sweep,
}

/// Which calls a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// All.
    Any,
    /// Those that change something.
    Writes,
    /// Those that do not.
    Reads,
    /// One sort.
    Only(Call),
}

impl Calls {
    fn include(self, call: Call) -> bool {
        let writes = matches!(call, Call::Put | Call::Delete | Call::Sweep);
        match self {
            Self::Any => true,
            Self::Writes => writes,
            Self::Reads => !writes,
            Self::Only(only) => only == call,
        }
    }
}

/// What goes wrong. A fault that makes no sense for a call does nothing to it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error; nothing was done.
    Error,
    /// An error; it was done.
    ErrorButDone,
    /// A timeout; nothing was done.
    Timeout,
    /// A timeout; it was done.
    TimeoutButDone,
    /// A put that times out, and is done after so many further calls.
    Late(u64),
    /// A put that leaves the object cut short. An error; where the store lies, a success.
    Torn,
    /// A put that leaves nothing. An error, since put reads back; where the store
    /// lies, a success.
    Lost,
    /// A read or a listing as it was up to eight changes ago.
    Stale,
    /// A read with one bit flipped.
    Corrupt,
    /// The call takes this long.
    Slow(Duration),
    /// There is no room.
    Full,
    /// The call waits, before it does anything, until the gate opens.
    Pause(Gate),
}

/// When a rule applies. Calls are counted from 0, by rule, among those that the
/// rule is about.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Once.
    Nth(u64),
    /// Then and ever after: as if the process had ended there.
    From(u64),
    /// By chance.
    Chance(f64),
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which calls it is about…
    pub calls: Calls,
    /// …on names that hold this text…
    pub name: String,
    /// …and when.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// A rule about all names.
    pub fn new(calls: Calls, when: When, fault: Fault) -> Self {
        Self::on("", calls, when, fault)
    }

    /// A rule about names that hold `name`.
    pub fn on(name: &str, calls: Calls, when: When, fault: Fault) -> Self {
        Self {
            calls,
            name: name.to_owned(),
            when,
            fault,
        }
    }
}

/// What goes wrong with one client's calls. The same seed and the same calls
/// give the same faults.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// Where chance starts.
    pub seed: u64,
    /// Whether torn and lost writes are acknowledged. Real stores read back what
    /// they wrote, so they are honest; a disk that forgets later is not.
    pub lying: bool,
    /// The first rule that applies to a call decides.
    pub rules: Vec<Rule>,
    /// Room for all objects together.
    pub bytes_max: Option<u64>,
}

impl FaultPlan {
    /// One rule, no chance in it.
    pub fn once(rule: Rule) -> Self {
        Self {
            rules: vec![rule],
            ..Self::default()
        }
    }

    /// From this call on, nothing works: as if the process had been killed.
    pub fn crash_at(call: u64) -> Self {
        Self::once(Rule::new(Calls::Any, When::From(call), Fault::Error))
    }
}

/// Holds a call back until a test lets it go on.
#[derive(Debug, Clone)]
pub struct Gate {
    reached: Arc<watch::Sender<bool>>,
    open: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            reached: Arc::new(watch::Sender::new(false)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Gate {
    /// Waits until a call stands before the gate.
    pub async fn reached(&self) {
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    /// Lets the call, and all later ones, go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        self.reached.send_replace(true);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// A plan being carried out.
#[derive(Debug)]
pub(super) struct Planned {
    pub plan: FaultPlan,
    random: u64,
    /// Calls seen so far, by rule.
    seen: Vec<u64>,
}

impl Planned {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self {
            random: plan.seed,
            seen: vec![0; plan.rules.len()],
            plan,
        }
    }

    /// The next number of splitmix64.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What goes wrong with this call, if anything.
    pub(super) fn fault(&mut self, call: Call, name: &str) -> Option<Fault> {
        let mut decided = None;
        for number in 0..self.plan.rules.len() {
            let rule = &self.plan.rules[number];
            if !rule.calls.include(call) || !name.contains(&rule.name) {
                continue;
            }
            let (when, fault) = (rule.when, rule.fault.clone());
            let seen = self.seen[number];
            self.seen[number] += 1;
            let applies = match when {
                When::Nth(n) => seen == n,
                When::From(n) => seen >= n,
                When::Chance(p) => ((self.random() >> 11) as f64) < p * (1u64 << 53) as f64,
            };
            if applies && decided.is_none() {
                decided = Some(fault);
            }
        }
        decided
    }
}
