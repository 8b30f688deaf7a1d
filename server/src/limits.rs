//! How much one user may ask for: the gate after admission.
//!
//! - creates a minute: a bucket that fills evenly and holds a minute's worth
//! - jobs that wait or run: what the catalog says; two calls in the same moment may both get the
//!   last place
//! - downloads at the same time, of this server
//!
//! What is over a limit is answered with RESOURCE_EXHAUSTED, QuotaFailure and RetryInfo. Services
//! and administrators are Nora's own and have no such limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use catalog::Catalog;
use proto::backup::v1::ErrorReason;
use tokio::time::Instant;
use tonic::{Status, body::Body};

use crate::{
    admission::Slot,
    auth::{Caller, Role},
    gate::{Answer, Behind, Gate},
    methods::{Method, Methods, Sort},
    settings::AccessSettings,
    status::ApiError,
};

/// Callers that are remembered. One that asked for nothing in the last minute is forgotten.
const CALLERS_MAX: usize = 100_000;
/// The time in which a bucket fills.
const WINDOW: Duration = Duration::from_mins(1);
/// When it is worth to look for a free place again.
const RETRY_JOBS: Duration = Duration::from_secs(30);
const RETRY_DOWNLOADS: Duration = Duration::from_secs(5);

/// What one caller has asked for of late.
#[derive(Debug)]
struct Account {
    /// Creates that it may still make now.
    left: f64,
    at: Instant,
    downloads: usize,
}

/// The limits, and who has asked for how much.
#[derive(Debug)]
pub struct Limits {
    creates_per_minute: usize,
    jobs_per_owner: usize,
    downloads_per_caller: usize,
    accounts: Mutex<HashMap<String, Account>>,
}

impl Limits {
    /// As set; 0 is no limit.
    pub fn new(settings: &AccessSettings) -> Self {
        Self {
            creates_per_minute: settings.creates_per_minute,
            jobs_per_owner: settings.jobs_per_owner,
            downloads_per_caller: settings.downloads_per_caller,
            accounts: Mutex::default(),
        }
    }

    /// Lets a caller ask for new work, or says when it may again.
    fn create(&self, caller_id: &str) -> Result<(), ApiError> {
        if self.creates_per_minute == 0 {
            return Ok(());
        }
        let full = self.creates_per_minute as f64;
        let per_second = full / WINDOW.as_secs_f64();
        self.account(caller_id, |account| {
            let now = Instant::now();
            let since = now.duration_since(account.at).as_secs_f64();
            account.left = (account.left + since * per_second).min(full);
            account.at = now;
            if account.left >= 1.0 {
                account.left -= 1.0;
                return Ok(());
            }
            let wait = Duration::from_secs_f64((1.0 - account.left) / per_second);
            let what = format!("{} creates a minute", self.creates_per_minute);
            Err(ApiError::over_quota(
                ErrorReason::TooManyCreates,
                caller_id,
                what.clone(),
                format!(
                    "{caller_id} is at its limit of {what}: try again in {} s",
                    wait.as_secs_f64().ceil()
                ),
                wait,
            ))
        })
    }

    /// Lets a caller read one more stream, until the guard is dropped.
    fn download(self: &Arc<Self>, caller_id: &str) -> Result<Option<Download>, ApiError> {
        let bound = self.downloads_per_caller;
        if bound == 0 {
            return Ok(None);
        }
        self.account(caller_id, |account| {
            if account.downloads >= bound {
                let what = format!("{bound} downloads at the same time");
                return Err(ApiError::over_quota(
                    ErrorReason::TooManyDownloads,
                    caller_id,
                    what.clone(),
                    format!(
                        "{caller_id} is at its limit of {what}: wait until one has ended, or end one"
                    ),
                    RETRY_DOWNLOADS,
                ));
            }
            account.downloads += 1;
            Ok(Some(Download {
                limits: self.clone(),
                caller_id: caller_id.to_owned(),
            }))
        })
    }

    /// Whether a caller may have one more job.
    async fn job(&self, catalog: &Catalog, caller_id: &str) -> Result<(), ApiError> {
        let bound = self.jobs_per_owner as u64;
        if bound == 0 {
            return Ok(());
        }
        let open = catalog.open_jobs(caller_id).await?;
        if open < bound {
            return Ok(());
        }
        Err(ApiError::over_quota(
            ErrorReason::TooManyJobs,
            caller_id,
            format!("{bound} jobs that wait or run"),
            format!(
                "{open} jobs of {caller_id} wait or run, and the limit is {bound}: wait until some \
                 have ended, or cancel some"
            ),
            RETRY_JOBS,
        ))
    }

    fn account<T>(
        &self,
        caller_id: &str,
        then: impl FnOnce(&mut Account) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(caller_id) {
            return then(account);
        }
        if accounts.len() >= CALLERS_MAX {
            accounts.retain(|_, account| account.downloads > 0 || account.at.elapsed() < WINDOW);
            if accounts.len() >= CALLERS_MAX {
                return Err(ApiError::overloaded("callers", CALLERS_MAX));
            }
        }
        let account = accounts
            .entry(caller_id.to_owned())
            .or_insert_with(|| Account {
                left: self.creates_per_minute as f64,
                at: Instant::now(),
                downloads: 0,
            });
        then(account)
    }
}

/// A place among a caller's downloads; given back when it is dropped.
#[derive(Debug)]
pub struct Download {
    limits: Arc<Limits>,
    caller_id: String,
}

impl Drop for Download {
    fn drop(&mut self) {
        let accounts = self.limits.accounts.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.caller_id) {
            account.downloads = account.downloads.saturating_sub(1);
        }
    }
}

/// Keeps each caller within its limits.
pub struct LimitsGate {
    methods: Arc<Methods>,
    limits: Arc<Limits>,
    catalog: Catalog,
}

impl LimitsGate {
    /// Over the catalog that knows the jobs.
    pub fn new(methods: Arc<Methods>, limits: Limits, catalog: Catalog) -> Self {
        Self {
            methods,
            limits: Arc::new(limits),
            catalog,
        }
    }

    /// The user whose limits a call counts against, and what it calls.
    fn counted(&self, request: &http::Request<Body>) -> Option<(Method, String)> {
        let method = self.methods.get(request.uri().path())?;
        let caller = request.extensions().get::<Caller>()?;
        let counts = method.creates || method.sort == Sort::Download;
        (counts && caller.role == Role::User).then(|| (method.clone(), caller.id.clone()))
    }
}

impl Gate for LimitsGate {
    fn pass<S: Behind>(&self, mut behind: S, mut request: http::Request<Body>) -> Answer<S::Error> {
        let Some((method, caller_id)) = self.counted(&request) else {
            return Box::pin(behind.call(request));
        };
        let (limits, catalog) = (self.limits.clone(), self.catalog.clone());
        Box::pin(async move {
            match admit(&limits, &catalog, &method, &caller_id).await {
                Ok(download) => {
                    let slot = request.extensions_mut().remove::<Slot>();
                    if let Some(slot) = slot {
                        request.extensions_mut().insert(slot.with(download));
                    }
                    behind.call(request).await
                }
                Err(error) => {
                    let limit = crate::status::reason_name(error.reason());
                    metrics::counter!("nora_backup_over_limit_total", "limit" => limit)
                        .increment(1);
                    Ok(Status::from(error).into_http())
                }
            }
        })
    }
}

async fn admit(
    limits: &Arc<Limits>,
    catalog: &Catalog,
    method: &Method,
    caller_id: &str,
) -> Result<Option<Download>, ApiError> {
    if method.creates {
        limits.create(caller_id)?;
    }
    if method.makes_job {
        limits.job(catalog, caller_id).await?;
    }
    if method.sort == Sort::Download {
        return limits.download(caller_id);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn limits(creates_per_minute: usize, downloads_per_caller: usize) -> Arc<Limits> {
        Arc::new(Limits::new(&AccessSettings {
            creates_per_minute,
            downloads_per_caller,
            ..AccessSettings::default()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_fills_evenly() {
        let limits = limits(6, 0);
        for _ in 0..6 {
            limits.create("ann").unwrap();
        }
        let refused = limits.create("ann").unwrap_err();
        limits.create("bob").expect("others are not concerned");
        let status = Status::from(refused);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let retry = status
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .unwrap();
        assert_eq!(retry, Duration::from_secs(10));
        let violation = &status.get_details_quota_failure().unwrap().violations[0];
        assert_eq!(violation.subject, "user:ann");
        assert_eq!(violation.description, "6 creates a minute");
        tokio::time::advance(retry).await;
        limits.create("ann").unwrap();
        limits.create("ann").unwrap_err();
        // However long it waits, it holds no more than a minute's worth.
        tokio::time::advance(Duration::from_hours(9)).await;
        for _ in 0..6 {
            limits.create("ann").unwrap();
        }
        limits.create("ann").unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_gives_its_place_back() {
        let limits = limits(0, 2);
        let first = limits.download("ann").unwrap();
        let _second = limits.download("ann").unwrap();
        limits.download("ann").unwrap_err();
        let _other = limits.download("bob").unwrap();
        drop(first);
        let _third = limits.download("ann").unwrap();
        limits.download("ann").unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_no_limit() {
        let limits = limits(0, 0);
        for _ in 0..10_000 {
            limits.create("ann").unwrap();
            assert!(limits.download("ann").unwrap().is_none());
        }
        assert!(limits.accounts.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_callers_are_forgotten_and_memory_is_bounded() {
        let limits = limits(10, 2);
        let held = limits.download("reader").unwrap();
        for number in 1..CALLERS_MAX {
            limits.create(&number.to_string()).unwrap();
        }
        let full = Status::from(limits.create("one too many").unwrap_err());
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        tokio::time::advance(WINDOW).await;
        limits.create("one too many").unwrap();
        assert_eq!(limits.accounts.lock().unwrap().len(), 2, "who reads stays");
        drop(held);
    }
}
