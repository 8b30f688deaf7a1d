//! Destinations: added, shown, changed, forgotten, tried. Secrets go in and never come out.

use catalog::{PageRequest, StoredDestination};
use destinations::{DEFAULT, DestinationsError};
use proto::backup::v1::{
    CreateDestinationRequest, CreateDestinationResponse, DeleteDestinationRequest,
    DeleteDestinationResponse, Destination, DestinationStep, GetDestinationRequest,
    GetDestinationResponse, ListDestinationsRequest, ListDestinationsResponse,
    TestDestinationRequest, TestDestinationResponse, UpdateDestinationRequest,
    UpdateDestinationResponse, destination::Kind, test_destination_request::Target,
};
use vault::{
    VaultError,
    destination::{ProbeStep, check, merge_secrets, place, probe, public},
};

use super::Admin;
use crate::{
    clock::{now_ms, timestamp},
    page::Listing,
    services::Call,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

impl Admin {
    pub(super) async fn add_destination(
        &self,
        call: Call<CreateDestinationRequest>,
    ) -> Result<CreateDestinationResponse, ApiError> {
        let new = described(call.message.destination.unwrap_or_default());
        let mut checks = Checks::new();
        checks.agent_id("destination.destination_id", &new.destination_id);
        checks.that(
            new.destination_id != DEFAULT,
            "destination.destination_id",
            "must not be \"default\": that is the one of the environment",
        );
        describe(&mut checks, &new);
        checks.done()?;
        let sealed = self.state.destinations.sealed(&new);
        let known = self
            .state
            .catalog
            .create_destination(&sealed, now_ms())
            .await?;
        tracing::info!(
            destination_id = known.destination_id,
            place = known.place,
            "destination added"
        );
        Ok(CreateDestinationResponse {
            destination: Some(shown(&known, &new)),
        })
    }

    pub(super) async fn destination(
        &self,
        call: Call<GetDestinationRequest>,
    ) -> Result<GetDestinationResponse, ApiError> {
        let id = call.message.destination_id;
        let mut checks = Checks::new();
        checks.id("destination_id", &id);
        checks.done()?;
        let known = self.state.destinations.known(&id).await?;
        let described = self.state.destinations.unseal(&known)?;
        Ok(GetDestinationResponse {
            destination: Some(shown(&known, &described)),
        })
    }

    pub(super) async fn destinations(
        &self,
        call: Call<ListDestinationsRequest>,
    ) -> Result<ListDestinationsResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.done()?;
        let listing = Listing::new("destinations", []);
        let after = listing.open_text(&request.page_token)?;
        let page = PageRequest { limit, after };
        let found = self.state.catalog.list_destinations(&page).await?;
        let show = |known: &StoredDestination| {
            // One that does not open is shown as far as it can be; Get says why.
            let described = self.state.destinations.unseal(known).unwrap_or_default();
            shown(known, &described)
        };
        Ok(ListDestinationsResponse {
            destinations: found.items.iter().map(show).collect(),
            next_page_token: found
                .next
                .map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }

    pub(super) async fn change_destination(
        &self,
        call: Call<UpdateDestinationRequest>,
    ) -> Result<UpdateDestinationResponse, ApiError> {
        let wished = call.message.destination.unwrap_or_default();
        let mut checks = Checks::new();
        checks.id("destination.destination_id", &wished.destination_id);
        checks.that(
            wished.destination_id != DEFAULT,
            "destination.destination_id",
            "must not be \"default\": change the environment of the servers and workers instead",
        );
        checks.done()?;
        let known = self
            .state
            .destinations
            .known(&wished.destination_id)
            .await?;
        let before = self.state.destinations.unseal(&known)?;
        let paths = call.message.update_mask.map(|mask| mask.paths);
        let new = changed(&wished, &before, paths)?;
        let etag = if wished.etag.is_empty() {
            &known.etag
        } else {
            &wished.etag
        };
        let sealed = self.state.destinations.sealed(&new);
        let after = self
            .state
            .catalog
            .update_destination(&sealed, etag, now_ms())
            .await?;
        tracing::info!(destination_id = after.destination_id, "destination changed");
        Ok(UpdateDestinationResponse {
            destination: Some(shown(&after, &new)),
        })
    }

    pub(super) async fn forget_destination(
        &self,
        call: Call<DeleteDestinationRequest>,
    ) -> Result<DeleteDestinationResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        checks.id("destination_id", &request.destination_id);
        checks.that(
            request.destination_id != DEFAULT,
            "destination_id",
            "must not be \"default\": that is the one of the environment",
        );
        checks.done()?;
        let etag = (!request.etag.is_empty()).then_some(request.etag.as_str());
        self.state
            .catalog
            .delete_destination(&request.destination_id, etag)
            .await?;
        tracing::info!(
            destination_id = request.destination_id,
            "destination forgotten"
        );
        Ok(DeleteDestinationResponse {})
    }

    pub(super) async fn try_destination(
        &self,
        call: Call<TestDestinationRequest>,
    ) -> Result<TestDestinationResponse, ApiError> {
        let described = match call.message.target {
            None => {
                let mut checks = Checks::new();
                checks.fault("target", "must be set to destination_id or destination");
                return checks.done().map(|()| TestDestinationResponse::default());
            }
            Some(Target::DestinationId(id)) => {
                let mut checks = Checks::new();
                checks.id("destination_id", &id);
                checks.done()?;
                let known = self.state.destinations.known(&id).await?;
                self.state.destinations.unseal(&known)?
            }
            Some(Target::Destination(wished)) => self.as_if_saved(wished).await?,
        };
        let store = match self.state.destinations.open(&described) {
            Ok(store) => store,
            Err(DestinationsError::Vault(error)) => return Ok(refused(&described, &error)),
            Err(error) => return Err(error.into()),
        };
        Ok(answer(probe(&described, &*store).await))
    }

    /// A description that was sent to be tried, with the secrets that it leaves out.
    async fn as_if_saved(&self, wished: Destination) -> Result<Destination, ApiError> {
        let known = match self.state.destinations.known(&wished.destination_id).await {
            Ok(known) => Some(self.state.destinations.unseal(&known)?),
            Err(DestinationsError::Catalog(catalog::CatalogError::DestinationNotFound {
                ..
            })) => None,
            Err(error) => return Err(error.into()),
        };
        let described = match &known {
            // Secrets go to the place that they were given for, and nowhere else.
            Some(known) if place(known) == place(&wished) => merge_secrets(&wished, known),
            _ => wished,
        };
        let mut checks = Checks::new();
        describe(&mut checks, &described);
        checks.done()?;
        Ok(described)
    }
}

/// A destination to add, with its defaults and nothing that is output only.
fn described(wished: Destination) -> Destination {
    Destination {
        display_name: if wished.display_name.is_empty() {
            wished.destination_id.clone()
        } else {
            wished.display_name
        },
        destination_id: wished.destination_id,
        kind: wished.kind,
        ..Destination::default()
    }
}

/// Whether a description can be one.
fn describe(checks: &mut Checks, destination: &Destination) {
    checks.name("destination.display_name", &destination.display_name);
    for problem in check(destination) {
        checks.fault(format!("destination.{}", problem.field), problem.what);
    }
}

/// The destination as an update wants it.
fn changed(
    wished: &Destination,
    before: &Destination,
    paths: Option<Vec<String>>,
) -> Result<Destination, ApiError> {
    let mut checks = Checks::new();
    let all = ["display_name".to_owned(), kind_name(before).to_owned()];
    let paths = paths.filter(|paths| !paths.is_empty());
    let mut new = before.clone();
    for path in paths.as_deref().unwrap_or(&all) {
        if path == "display_name" {
            new.display_name = described(wished.clone()).display_name;
        } else if path == kind_name(before) {
            new.kind.clone_from(&merge_secrets(wished, before).kind);
        } else {
            checks.fault(
                "update_mask",
                format!(
                    "names {path}, which can't be changed: name display_name or {}",
                    kind_name(before)
                ),
            );
        }
    }
    describe(&mut checks, &new);
    checks.that(
        place(&new) == place(before),
        &format!("destination.{}", kind_name(before)),
        "must be the same place: add another place as another destination",
    );
    checks.done()?;
    Ok(new)
}

fn kind_name(destination: &Destination) -> &'static str {
    match destination.kind {
        Some(Kind::Local(_)) => "local",
        Some(Kind::S3(_)) => "s3",
        Some(Kind::R2(_)) => "r2",
        Some(Kind::Ssh(_)) => "ssh",
        None => "kind",
    }
}

/// A destination as callers see it.
fn shown(known: &StoredDestination, described: &Destination) -> Destination {
    let is_default = known.destination_id == DEFAULT;
    let added = |time_ms| (!is_default).then(|| timestamp(time_ms));
    Destination {
        destination_id: known.destination_id.clone(),
        display_name: known.display_name.clone(),
        create_time: added(known.create_time_ms),
        update_time: added(known.update_time_ms),
        etag: known.etag.clone(),
        place: known.place.clone(),
        is_default,
        ..public(described)
    }
}

/// It does not even open: the step that everything begins with has failed. Administrators
/// are told where it was looked for, which errors that others see leave out.
fn refused(described: &Destination, error: &VaultError) -> TestDestinationResponse {
    TestDestinationResponse {
        ok: false,
        steps: vec![DestinationStep {
            name: "connect".to_owned(),
            reason: error.reason().to_owned(),
            message: format!("{}: {error}", place(described)),
            ..DestinationStep::default()
        }],
    }
}

fn answer(steps: Vec<ProbeStep>) -> TestDestinationResponse {
    let step = |step: ProbeStep| {
        let failure = step.failure.map(VaultError::from);
        DestinationStep {
            name: step.name.to_owned(),
            ok: failure.is_none(),
            duration: step.took.try_into().ok(),
            reason: failure.as_ref().map_or("", |f| f.reason()).to_owned(),
            message: failure.map_or_else(String::new, |failure| failure.to_string()),
        }
    };
    TestDestinationResponse {
        ok: steps.iter().all(|step| step.failure.is_none()),
        steps: steps.into_iter().map(step).collect(),
    }
}
