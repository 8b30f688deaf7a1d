//! `destination test`: a small object is written, read, listed, renamed and deleted, by the
//! service.

use std::time::Duration;

use clap::Args;
use proto::backup::v1::{
    Destination, TestDestinationRequest, TestDestinationResponse, test_destination_request::Target,
};

use super::{get, place::PlaceArgs, refused};
use crate::{
    connect::{Session, call},
    error::{CliError, Result},
    exit::Exit,
    output::json::Document as _,
    show,
};

/// How long a test may take: each of its steps may wait for a place that says nothing.
const TEST_TIMEOUT: Duration = Duration::from_mins(10);

/// Arguments of `destination test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The destination; not needed for one that is described by flags
    #[arg(value_name = "ID")]
    pub destination: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Runs it.
pub async fn run(session: &Session, args: TestArgs) -> Result<()> {
    let out = session.out;
    let target = target(session, args).await?;
    let mut request = call(TestDestinationRequest {
        target: Some(target),
    });
    request.set_timeout(TEST_TIMEOUT);
    let answer = session.admin().test_destination(request).await;
    let answer = answer.map_err(|status| refused(session, status))?;
    let answer = answer.into_inner();
    if out.json {
        out.document(&answer.to_json())?;
    } else if !out.quiet {
        show::steps(&answer.steps)
            .iter()
            .try_for_each(|line| out.line(line))?;
    }
    if answer.ok {
        return Ok(());
    }
    Err(if out.quiet {
        failed(&answer)
    } else {
        CliError::silent(Exit::Failed)
    })
}

/// What is tried: what is known, what is described, or the one changed into the other.
async fn target(session: &Session, args: TestArgs) -> Result<Target> {
    let TestArgs { destination, place } = args;
    if place == PlaceArgs::default() {
        return match destination {
            Some(id) => Ok(Target::DestinationId(id)),
            None => Err(CliError::usage(
                "what shall be tried? Give the ID of a destination, or the flags of a place",
            )),
        };
    }
    let Some(id) = destination else {
        return Ok(Target::Destination(Destination {
            kind: Some(place.place(session)?),
            ..Destination::default()
        }));
    };
    let kind = match get(session, &id).await {
        Ok(known) => place.change(session, &id, known.kind)?,
        Err(error) if error.exit == Exit::NotFound => Some(place.place(session)?),
        Err(error) => return Err(error),
    };
    Ok(Target::Destination(Destination {
        destination_id: id,
        kind,
        ..Destination::default()
    }))
}

/// The step that failed, as an error.
fn failed(answer: &TestDestinationResponse) -> CliError {
    let Some(step) = answer.steps.iter().find(|step| !step.ok) else {
        return CliError::failed("the test failed");
    };
    let mut error = CliError::failed(format!("{}: {}", step.name, step.message));
    error.reason = (!step.reason.is_empty()).then(|| step.reason.clone());
    error
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::DestinationStep;

    use super::*;

    #[test]
    fn the_step_that_failed_is_the_error() {
        let step = |name: &str, ok: bool| DestinationStep {
            name: name.into(),
            ok,
            reason: if ok { "" } else { "DESTINATION_FULL" }.into(),
            message: if ok { "" } else { "no room left" }.into(),
            ..DestinationStep::default()
        };
        let answer = TestDestinationResponse {
            ok: false,
            steps: vec![step("connect", true), step("write", false)],
        };
        let error = failed(&answer);
        assert_eq!(error.exit, Exit::Failed);
        assert_eq!(error.message, "write: no room left");
        assert_eq!(error.reason.as_deref(), Some("DESTINATION_FULL"));
    }
}
