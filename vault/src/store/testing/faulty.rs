//! Planned faults in front of any store.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    super::{Listed, Store},
    error_of, failed, lock,
    plan::{Call, Fault, FaultPlan, Planned},
};
use crate::error::{StoreError, StoreErrorKind};

/// A store whose calls fail as planned: not made at all, or made and reported as
/// failed. What only a store in memory can do (torn, lost, late and stale objects)
/// does nothing here.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    planned: Mutex<Planned>,
    struck: Mutex<Vec<(Call, String)>>,
}

impl FaultyStore {
    /// In front of a store.
    pub fn new(inner: Arc<dyn Store>, plan: FaultPlan) -> Arc<Self> {
        Arc::new(Self {
            inner,
            planned: Mutex::new(Planned::new(plan)),
            struck: Mutex::default(),
        })
    }

    /// The calls that met a fault so far.
    pub fn struck(&self) -> Vec<(Call, String)> {
        lock(&self.struck).clone()
    }

    async fn call<T>(
        &self,
        call: Call,
        action: &'static str,
        name: &str,
        made: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = lock(&self.planned).fault(call, name);
        if fault.is_some() {
            lock(&self.struck).push((call, name.to_owned()));
        }
        match &fault {
            Some(Fault::Error | Fault::Timeout) => error_of(fault.as_ref(), action, name)?,
            Some(Fault::Full) => return Err(failed(action, name, StoreErrorKind::Full)),
            Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
            Some(Fault::Pause(gate)) => gate.pass().await,
            _ => {}
        }
        let done = made.await?;
        error_of(fault.as_ref(), action, name)?;
        Ok(done)
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.call(Call::Put, "write", name, self.inner.put(name, bytes))
            .await
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        self.call(Call::Get, "read", name, self.inner.get(name, bytes_max))
            .await
    }

    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let made = self.inner.get_range(name, offset, length);
        self.call(Call::GetRange, "read", name, made).await
    }

    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.call(Call::Stat, "look up", name, self.inner.stat(name))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.call(Call::List, "list", prefix, self.inner.list(prefix))
            .await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let made = self.inner.list_folders(prefix);
        self.call(Call::ListFolders, "list", prefix, made).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.call(Call::Delete, "delete", name, self.inner.delete(name))
            .await
    }

    async fn sweep(&self, age_ms: u64) -> Result<u64, StoreError> {
        self.call(Call::Sweep, "sweep", "", self.inner.sweep(age_ms))
            .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &lock(&self.planned).plan;
        write!(f, "FaultyStore({plan:?}, {:?})", self.inner)
    }
}
