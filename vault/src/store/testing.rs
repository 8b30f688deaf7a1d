//! An in-memory destination with seeded faults, planned faults in front of any other
//! one, and what every destination is tested against. For tests only.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Listed, Store};
use crate::error::{StoreError, StoreErrorKind};

mod backups;
mod contract;
mod faulty;
mod plan;

pub use backups::each_call_fails_once;
pub use contract::contract;
pub use faulty::FaultyStore;
use plan::Planned;
pub use plan::{Call, Calls, Fault, FaultPlan, Gate, Rule, When};

/// Changes that stale reads may be behind.
const STALE_CHANGES: usize = 8;

/// Objects in memory, as one client sees them. Clients of the same objects have
/// each their own faults: that is how a test runs two workers at once. When a
/// test panics, the plan and its seed are printed.
pub struct MemoryStore {
    objects: Arc<Mutex<Objects>>,
    planned: Mutex<Planned>,
    log: Mutex<Vec<(Call, String)>>,
}

#[derive(Default)]
struct Objects {
    now_ms: Option<i64>,
    stored: BTreeMap<String, Object>,
    /// What objects were before the latest changes, the newest last.
    before: VecDeque<(String, Option<Object>)>,
    /// Puts that arrive after so many further calls.
    late: Vec<(u64, String, Bytes)>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    modify_time_ms: i64,
}

impl Objects {
    fn set(&mut self, name: &str, bytes: Option<Bytes>) {
        let modify_time_ms = self.now_ms.unwrap_or_else(crate::vault::now_ms);
        let object = bytes.map(|bytes| Object {
            bytes,
            modify_time_ms,
        });
        let before = match object {
            Some(object) => self.stored.insert(name.to_owned(), object),
            None => self.stored.remove(name),
        };
        if self.before.len() == STALE_CHANGES {
            self.before.pop_front();
        }
        self.before.push_back((name.to_owned(), before));
    }

    /// The objects as they were some changes ago.
    fn stale(&self, changes: usize) -> BTreeMap<String, Object> {
        let mut view = self.stored.clone();
        for (name, before) in self.before.iter().rev().take(changes) {
            match before {
                Some(object) => view.insert(name.clone(), object.clone()),
                None => view.remove(name),
            };
        }
        view
    }

    fn bytes(&self) -> u64 {
        self.stored.values().map(|o| o.bytes.len() as u64).sum()
    }

    /// Lets the puts arrive whose time has come.
    fn tick(&mut self) {
        let mut due = Vec::new();
        self.late.retain_mut(|(left, name, bytes)| {
            *left = left.saturating_sub(1);
            if *left == 0 {
                due.push((name.clone(), bytes.clone()));
            }
            *left > 0
        });
        for (name, bytes) in due {
            self.set(&name, Some(bytes));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(action: &'static str, name: &str, kind: StoreErrorKind) -> StoreError {
    StoreError {
        action,
        object: name.to_owned(),
        kind,
        detail: "as the test planned".to_owned(),
    }
}

impl MemoryStore {
    /// An empty store in which nothing goes wrong.
    pub fn new() -> Arc<Self> {
        Self::with_faults(FaultPlan::default())
    }

    /// An empty store.
    pub fn with_faults(plan: FaultPlan) -> Arc<Self> {
        Arc::new(Self {
            objects: Arc::default(),
            planned: Mutex::new(Planned::new(plan)),
            log: Mutex::default(),
        })
    }

    /// Another client of the same objects.
    pub fn client(&self, plan: FaultPlan) -> Arc<Self> {
        Arc::new(Self {
            objects: self.objects.clone(),
            planned: Mutex::new(Planned::new(plan)),
            log: Mutex::default(),
        })
    }

    /// A copy of the objects, for what might have happened.
    pub fn fork(&self, plan: FaultPlan) -> Arc<Self> {
        let objects = lock(&self.objects);
        let copy = Objects {
            now_ms: objects.now_ms,
            stored: objects.stored.clone(),
            ..Objects::default()
        };
        Arc::new(Self {
            objects: Arc::new(Mutex::new(copy)),
            planned: Mutex::new(Planned::new(plan)),
            log: Mutex::default(),
        })
    }

    /// Changes what goes wrong from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        *lock(&self.planned) = Planned::new(plan);
    }

    /// Sets the clock that writes are stamped with; it stands still then.
    pub fn set_now_ms(&self, now_ms: i64) {
        lock(&self.objects).now_ms = Some(now_ms);
    }

    /// The calls of this client so far.
    pub fn calls(&self) -> Vec<(Call, String)> {
        lock(&self.log).clone()
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        lock(&self.objects).stored.keys().cloned().collect()
    }

    /// The bytes of an object.
    pub fn object(&self, name: &str) -> Option<Bytes> {
        let objects = lock(&self.objects);
        objects.stored.get(name).map(|object| object.bytes.clone())
    }

    /// Sets or removes an object behind everyone's back.
    pub fn set_object(&self, name: &str, bytes: Option<Bytes>) {
        lock(&self.objects).set(name, bytes);
    }

    /// Counts a call and says what goes wrong with it; waits where it must.
    async fn begin(&self, call: Call, name: &str) -> Option<Fault> {
        lock(&self.log).push((call, name.to_owned()));
        lock(&self.objects).tick();
        let fault = lock(&self.planned).fault(call, name);
        match fault {
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                None
            }
            Some(Fault::Pause(gate)) => {
                gate.pass().await;
                None
            }
            fault => fault,
        }
    }

    /// The objects as a read sees them.
    fn view<T>(
        &self,
        fault: Option<&Fault>,
        look: impl FnOnce(&BTreeMap<String, Object>) -> T,
    ) -> T {
        if matches!(fault, Some(Fault::Stale)) {
            let changes = 1 + lock(&self.planned).random() as usize % STALE_CHANGES;
            look(&lock(&self.objects).stale(changes))
        } else {
            look(&lock(&self.objects).stored)
        }
    }

    /// Returned bytes, flipped where the plan says so.
    fn returned(&self, fault: Option<&Fault>, bytes: Bytes) -> Bytes {
        if !matches!(fault, Some(Fault::Corrupt)) || bytes.is_empty() {
            return bytes;
        }
        let random = lock(&self.planned).random() as usize;
        let mut flipped = bytes.to_vec();
        flipped[random / 8 % bytes.len()] ^= 1 << (random % 8);
        Bytes::from(flipped)
    }

    fn lies(&self) -> bool {
        lock(&self.planned).plan.lying
    }
}

/// The error of a call that fails whatever it does.
fn error_of(fault: Option<&Fault>, action: &'static str, name: &str) -> Result<(), StoreError> {
    match fault {
        Some(Fault::Error | Fault::ErrorButDone) => {
            Err(failed(action, name, StoreErrorKind::Unavailable))
        }
        Some(Fault::Timeout | Fault::TimeoutButDone | Fault::Late(_)) => {
            Err(failed(action, name, StoreErrorKind::Timeout))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let fault = self.begin(Call::Put, name).await;
        let result = error_of(fault.as_ref(), "write", name);
        let room = lock(&self.planned).plan.bytes_max;
        let mut objects = lock(&self.objects);
        let full = room.is_some_and(|room| objects.bytes() + bytes.len() as u64 > room);
        if full || matches!(fault, Some(Fault::Full)) {
            return Err(failed("write", name, StoreErrorKind::Full));
        }
        match fault {
            Some(Fault::Error | Fault::Timeout) => {}
            Some(Fault::Late(calls)) => objects.late.push((calls.max(1), name.to_owned(), bytes)),
            Some(Fault::Torn) => {
                let length = lock(&self.planned).random() as usize % bytes.len().max(1);
                objects.set(name, Some(bytes.slice(..length)));
                if !self.lies() {
                    return Err(failed("write", name, StoreErrorKind::Other));
                }
            }
            Some(Fault::Lost) => {
                if !self.lies() {
                    return Err(failed("read back", name, StoreErrorKind::Corrupt));
                }
            }
            _ => objects.set(name, Some(bytes)),
        }
        result
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let fault = self.begin(Call::Get, name).await;
        error_of(fault.as_ref(), "read", name)?;
        let found = self.view(fault.as_ref(), |o| o.get(name).map(|o| o.bytes.clone()));
        let bytes = found.ok_or_else(|| failed("read", name, StoreErrorKind::NotFound))?;
        if bytes.len() as u64 > bytes_max {
            return Err(failed("read", name, StoreErrorKind::Corrupt));
        }
        Ok(self.returned(fault.as_ref(), bytes))
    }

    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let fault = self.begin(Call::GetRange, name).await;
        error_of(fault.as_ref(), "read", name)?;
        let found = self.view(fault.as_ref(), |o| o.get(name).map(|o| o.bytes.clone()));
        let bytes = found.ok_or_else(|| failed("read", name, StoreErrorKind::NotFound))?;
        let start = (offset as usize).min(bytes.len());
        let end = offset.saturating_add(length).min(bytes.len() as u64) as usize;
        Ok(self.returned(fault.as_ref(), bytes.slice(start..end.max(start))))
    }

    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let fault = self.begin(Call::Stat, name).await;
        error_of(fault.as_ref(), "look up", name)?;
        Ok(self.view(fault.as_ref(), |o| {
            o.get(name).map(|o| o.bytes.len() as u64)
        }))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let fault = self.begin(Call::List, prefix).await;
        error_of(fault.as_ref(), "list", prefix)?;
        let directly = |name: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| !rest.contains('/'))
        };
        Ok(self.view(fault.as_ref(), |objects| {
            objects
                .iter()
                .filter(|(name, _)| directly(name))
                .map(|(name, object)| Listed {
                    name: name.clone(),
                    bytes: object.bytes.len() as u64,
                    modify_time_ms: Some(object.modify_time_ms),
                })
                .collect()
        }))
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let fault = self.begin(Call::ListFolders, prefix).await;
        error_of(fault.as_ref(), "list", prefix)?;
        let folders: BTreeSet<String> = self.view(fault.as_ref(), |objects| {
            objects
                .keys()
                .filter_map(|name| name.strip_prefix(prefix)?.split_once('/'))
                .map(|(folder, _)| folder.to_owned())
                .collect()
        });
        Ok(folders.into_iter().collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let fault = self.begin(Call::Delete, name).await;
        let result = error_of(fault.as_ref(), "delete", name);
        if !matches!(fault, Some(Fault::Error | Fault::Timeout)) {
            lock(&self.objects).set(name, None);
        }
        result
    }

    async fn sweep(&self, _age_ms: u64) -> Result<u64, StoreError> {
        let fault = self.begin(Call::Sweep, "").await;
        error_of(fault.as_ref(), "sweep", "").map(|()| 0)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.put("probe", Bytes::from_static(b"probe")).await?;
        self.delete("probe").await
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({:?})", lock(&self.planned).plan)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        let plan = &lock(&self.planned).plan;
        if std::thread::panicking() && !plan.rules.is_empty() {
            eprintln!("faults of this store: {plan:?}");
        }
    }
}
