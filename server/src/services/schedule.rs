//! ScheduleService: when agents are backed up by themselves, and what is kept.

use std::sync::Arc;

use catalog::{Frequency, PageRequest, RemovalRule, ScheduleSpec, timing};
use proto::backup::v1::{
    self as api, DeleteScheduleRequest, DeleteScheduleResponse, GetScheduleRequest,
    GetScheduleResponse, ListSchedulesRequest, ListSchedulesResponse, PreviewRetentionRequest,
    PreviewRetentionResponse, RemovedBackup, RetentionRemoval, Schedule, UpdateScheduleRequest,
    UpdateScheduleResponse, schedule_service_server::ScheduleService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{
    access,
    clock::{now_ms, timestamp},
    convert,
    page::Listing,
    state::State,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

const RETAIN_DEFAULT: u32 = 7;
const RETAIN_MAX: u32 = 1_000;
const REMOVED_MAX: u64 = 100;
const FIELDS: [&str; 5] = ["enabled", "frequency", "retain", "time_of_day", "time_zone"];

/// The service.
#[derive(Clone)]
pub struct Schedules {
    state: Arc<State>,
}

impl Schedules {
    /// The service over its parts.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    async fn get(&self, call: Call<GetScheduleRequest>) -> Result<GetScheduleResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let agent_id = named(&call.message.agent_id)?;
        let schedule = access::schedule_for(&self.state, &call.caller, agent_id).await?;
        Ok(GetScheduleResponse {
            schedule: Some(convert::schedule(schedule)),
        })
    }

    async fn update(
        &self,
        call: Call<UpdateScheduleRequest>,
    ) -> Result<UpdateScheduleResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let wanted = call.message.schedule.unwrap_or_default();
        let mask = call.message.update_mask.unwrap_or_default().paths;
        let mut checks = Checks::new();
        checks.id("schedule.agent_id", &wanted.agent_id);
        let spec = read(&mut checks, &wanted, &mask);
        checks.done()?;
        access::agent_for(&self.state, &call.caller, &wanted.agent_id).await?;
        let catalog = &self.state.catalog;
        let before = catalog.get_schedule(&wanted.agent_id).await?;
        // What is not named stays as it was read here, and must be so still when it is written.
        let expected = if wanted.etag.is_empty() {
            before.as_ref().map(|before| before.etag.clone())
        } else {
            Some(wanted.etag.clone())
        };
        let spec = spec.over(before.map(|before| before.spec));
        let (schedule, created) = catalog
            .set_schedule(
                &wanted.agent_id,
                spec,
                expected.as_deref(),
                !call.message.allow_missing,
                now_ms(),
            )
            .await?;
        tracing::info!(agent_id = schedule.agent_id, created, "schedule set");
        Ok(UpdateScheduleResponse {
            schedule: Some(convert::schedule(schedule)),
            created,
        })
    }

    async fn list(
        &self,
        call: Call<ListSchedulesRequest>,
    ) -> Result<ListSchedulesResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.done()?;
        let listing = Listing::new("schedules", []);
        let after = listing.open_text(&request.page_token)?;
        let owner_id = access::owner_scope(&call.caller);
        let page = PageRequest { limit, after };
        let catalog = &self.state.catalog;
        let found = catalog.list_schedules(owner_id.as_deref(), &page).await?;
        Ok(ListSchedulesResponse {
            schedules: found.items.into_iter().map(convert::schedule).collect(),
            next_page_token: found
                .next
                .map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }

    async fn delete(
        &self,
        call: Call<DeleteScheduleRequest>,
    ) -> Result<DeleteScheduleResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let agent_id = named(&call.message.agent_id)?;
        access::schedule_for(&self.state, &call.caller, agent_id).await?;
        let etag = &call.message.etag;
        let etag = (!etag.is_empty()).then_some(etag.as_str());
        self.state.catalog.delete_schedule(agent_id, etag).await?;
        tracing::info!(agent_id, "schedule deleted");
        Ok(DeleteScheduleResponse {})
    }

    async fn preview(
        &self,
        call: Call<PreviewRetentionRequest>,
    ) -> Result<PreviewRetentionResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let retain = call.message.retain;
        let mut checks = Checks::new();
        checks.id("agent_id", &call.message.agent_id);
        checks.that(retain <= RETAIN_MAX, "retain", "must be 1 to 1,000");
        checks.done()?;
        let agent_id = &call.message.agent_id;
        access::agent_for(&self.state, &call.caller, agent_id).await?;
        let (catalog, rules) = (&self.state.catalog, self.state.retention);
        let retain = (retain > 0).then_some(retain);
        let (rules, removals) = catalog
            .preview_retention(agent_id, rules, retain, now_ms())
            .await?;
        let removed = catalog.list_removals(agent_id, REMOVED_MAX).await?;
        let removals = removals.into_iter().map(|(removal, backup)| {
            let rule = rule(removal.rule).into();
            RetentionRemoval {
                backup_id: removal.backup_id,
                name: backup.name,
                rule,
                end_time: backup.end_time_ms.map(timestamp),
            }
        });
        let removed = removed.into_iter().map(|removed| RemovedBackup {
            backup_id: removed.backup_id,
            name: removed.name,
            rule: rule(removed.rule).into(),
            create_time: Some(timestamp(removed.create_time_ms)),
            removal_time: Some(timestamp(removed.removal_time_ms)),
        });
        let days = rules.age_ms.unwrap_or(0) / (24 * 60 * 60 * 1_000);
        Ok(PreviewRetentionResponse {
            removals: removals.collect(),
            retain: rules.retain.unwrap_or(0),
            limit_per_agent: rules.limit.unwrap_or(0),
            retention_days: days as u32,
            removed: removed.collect(),
        })
    }
}

fn named(agent_id: &str) -> Result<&str, ApiError> {
    let mut checks = Checks::new();
    checks.id("agent_id", agent_id);
    checks.done()?;
    Ok(agent_id)
}

fn rule(rule: RemovalRule) -> api::RemovalRule {
    match rule {
        RemovalRule::Retain => api::RemovalRule::Retain,
        RemovalRule::Limit => api::RemovalRule::Limit,
        RemovalRule::Age => api::RemovalRule::Age,
        RemovalRule::Ended => api::RemovalRule::Ended,
        RemovalRule::Request => api::RemovalRule::Request,
        RemovalRule::Deregister => api::RemovalRule::Deregister,
    }
}

/// What changes; `None`: as it was.
#[derive(Default)]
struct Change {
    enabled: Option<bool>,
    frequency: Option<Frequency>,
    retain: Option<u32>,
    // Within: none.
    #[allow(clippy::option_option)]
    time_of_day: Option<Option<u16>>,
    time_zone: Option<String>,
}

impl Change {
    fn over(self, before: Option<ScheduleSpec>) -> ScheduleSpec {
        let before = before.unwrap_or_else(|| ScheduleSpec {
            enabled: true,
            frequency: Frequency::Daily,
            retain: RETAIN_DEFAULT,
            time_of_day: None,
            time_zone: "UTC".to_owned(),
        });
        ScheduleSpec {
            enabled: self.enabled.unwrap_or(before.enabled),
            frequency: self.frequency.unwrap_or(before.frequency),
            retain: self.retain.unwrap_or(before.retain),
            time_of_day: self.time_of_day.unwrap_or(before.time_of_day),
            time_zone: self.time_zone.unwrap_or(before.time_zone),
        }
    }
}

/// Checks a schedule, and takes what the mask names from it.
fn read(checks: &mut Checks, wanted: &Schedule, mask: &[String]) -> Change {
    let known = |path: &String| path == "*" || FIELDS.contains(&path.as_str());
    checks.that(
        mask.iter().all(known),
        "update_mask",
        "must name enabled, frequency, retain, time_of_day and time_zone, or *",
    );
    let named = |field: &str, set: bool| {
        (mask.is_empty() && set) || mask.iter().any(|path| path == "*" || path == field)
    };
    let mut change = Change::default();
    if named("enabled", wanted.enabled.is_some()) {
        change.enabled = Some(wanted.enabled.unwrap_or(true));
    }
    if named("frequency", wanted.frequency != 0) {
        let frequency = match api::schedule::Frequency::try_from(wanted.frequency) {
            Ok(api::schedule::Frequency::Hourly) => Some(Frequency::Hourly),
            Ok(api::schedule::Frequency::Unspecified | api::schedule::Frequency::Daily) => {
                Some(Frequency::Daily)
            }
            Ok(api::schedule::Frequency::Weekly) => Some(Frequency::Weekly),
            Ok(api::schedule::Frequency::Monthly) => Some(Frequency::Monthly),
            Err(_) => None,
        };
        if frequency.is_none() {
            checks.fault(
                "schedule.frequency",
                "must be a value of Schedule.Frequency",
            );
        }
        change.frequency = frequency;
    }
    if named("retain", wanted.retain != 0) {
        let ok = wanted.retain <= RETAIN_MAX;
        checks.that(ok, "schedule.retain", "must be 1 to 1,000");
        change.retain = Some(match wanted.retain {
            0 => RETAIN_DEFAULT,
            retain => retain,
        });
    }
    if named("time_of_day", !wanted.time_of_day.is_empty()) {
        change.time_of_day = Some(None);
        if !wanted.time_of_day.is_empty() {
            let minutes = minutes(&wanted.time_of_day);
            let what = "must be a time from 00:00 to 23:59, as HH:MM";
            checks.that(minutes.is_some(), "schedule.time_of_day", what);
            change.time_of_day = Some(minutes);
        }
    }
    if named("time_zone", !wanted.time_zone.is_empty()) {
        let zone = match wanted.time_zone.as_str() {
            "" => "UTC",
            zone => zone,
        };
        checks.that(
            zone.len() <= 64 && timing::zone(zone).is_some(),
            "schedule.time_zone",
            "must be the IANA name of a time zone, for example Europe/Berlin",
        );
        change.time_zone = Some(zone.to_owned());
    }
    change
}

/// Minutes after midnight.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str, max: u16| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: u16 = digits.then(|| text.parse().ok())??;
        (number <= max).then_some(number)
    };
    Some(two(hour, 23)? * 60 + two(minute, 59)?)
}

#[async_trait]
impl ScheduleService for Schedules {
    async fn get_schedule(
        &self,
        request: Request<GetScheduleRequest>,
    ) -> Result<Response<GetScheduleResponse>, Status> {
        Ok(Response::new(self.get(Call::of(request)?).await?))
    }

    async fn update_schedule(
        &self,
        request: Request<UpdateScheduleRequest>,
    ) -> Result<Response<UpdateScheduleResponse>, Status> {
        Ok(Response::new(self.update(Call::of(request)?).await?))
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        Ok(Response::new(self.list(Call::of(request)?).await?))
    }

    async fn delete_schedule(
        &self,
        request: Request<DeleteScheduleRequest>,
    ) -> Result<Response<DeleteScheduleResponse>, Status> {
        Ok(Response::new(self.delete(Call::of(request)?).await?))
    }

    async fn preview_retention(
        &self,
        request: Request<PreviewRetentionRequest>,
    ) -> Result<Response<PreviewRetentionResponse>, Status> {
        Ok(Response::new(self.preview(Call::of(request)?).await?))
    }
}
