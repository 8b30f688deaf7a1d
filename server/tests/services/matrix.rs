//! Every rpc of the contract, in every role, about one's own, somebody else's and no resource,
//! against the table in `docs/access.md`; and the audit log that this leaves.
//!
//! A new rpc needs a row in the table, and a request in `table`.

use std::collections::BTreeMap;

use tonic::{Code, Status, transport::Endpoint};

use crate::{
    harness::{Rig, SECRET, now_ms, reason, token},
    raw::{Call, call, rpcs},
};

mod maker;
mod records;
mod table;

use maker::Maker;
use records::check_audit;
use table::{REQUESTS, ROLES, Row, table};

const ME: &str = "ann";
const SOMEBODY: &str = "bob";

/// An answer in the table's words; what the words don't tell, for comparison.
fn in_words(answer: &Result<prost_reflect::DynamicMessage, Status>) -> (String, String) {
    match answer {
        Ok(message) => {
            let empty = message.fields().next().is_none();
            (
                if empty { "nothing" } else { "yes" }.to_owned(),
                String::new(),
            )
        }
        Err(status) => {
            let word = match (status.code(), reason(status).as_str()) {
                (Code::NotFound, _) => "not found".to_owned(),
                (Code::PermissionDenied, "ROLE_NOT_ALLOWED") => "no".to_owned(),
                (code, reason) => format!("{code:?} {reason}"),
            };
            (word, format!("{} {:?}", status.message(), status.details()))
        }
    }
}

#[tokio::test]
async fn every_rpc_answers_every_role_as_the_table_says_and_leaves_its_audit_row() {
    let rig = Rig::start_with(|settings| {
        settings.access.creates_per_minute = 0;
        settings.access.jobs_per_owner = 0;
        settings.downloads_max = 64;
    })
    .await;
    let admin = Endpoint::from_shared(format!("http://{}", rig.admin_address)).unwrap();
    let admin = admin.connect_lazy();
    let worker = catalog::Worker {
        worker: "worker-1".to_owned(),
        pool: "default".to_owned(),
        concurrency: 1,
        version: "1".to_owned(),
        start_time_ms: now_ms(),
        seen_time_ms: now_ms(),
    };
    rig.catalog.see_worker(&[worker]).await.unwrap();
    let requests: BTreeMap<&str, &str> = REQUESTS.iter().copied().collect();
    let mut rows: BTreeMap<String, Row> = table()
        .into_iter()
        .map(|row| (row.rpc.clone(), row))
        .collect();
    let mut maker = Maker { rig: &rig, made: 0 };
    let (mut faults, mut calls) = (Vec::new(), 0);
    let mut audited: BTreeMap<String, (String, &str)> = BTreeMap::new();
    let mut unaudited = Vec::new();

    for (rpc, method) in rpcs() {
        let (Some(row), Some(template)) = (rows.remove(&rpc), requests.get(rpc.as_str())) else {
            faults.push(format!(
                "{rpc}: no row in docs/access.md, or no request in this test"
            ));
            continue;
        };
        let is_admins = rpc.starts_with("AdminService/");
        let channel = if is_admins { &admin } else { &rig.channel() };
        let about_something = *template != "{}";
        for role in ROLES {
            let bearer = token(ME, role, SECRET, 600);
            let mut expected = row.expected[role].clone();
            if expected.len() == 1 && about_something {
                expected = vec![expected[0].clone(); 3];
            }
            let owners = [Some(ME), Some(SOMEBODY), None];
            let mut hidden: Vec<String> = Vec::new();
            for (place, (wanted, owner)) in expected.iter().zip(owners).enumerate() {
                let request = maker.fill(template, owner).await;
                let name = format!("{rpc}-{role}-{place}");
                let one = || Call {
                    method: &method,
                    request: &request,
                    token: Some(&bearer),
                    name: &name,
                };
                let answer = call(channel.clone(), one()).await;
                calls += 1;
                let (found, rest) = in_words(&answer);
                // Only of a list does it matter whether it holds anything.
                let done = found == "nothing" && !method.name().starts_with("List");
                let found = if done { "yes".to_owned() } else { found };
                if &found != wanted {
                    faults.push(format!(
                        "{name}: {found:?} ({rest}), the table says {wanted:?}"
                    ));
                }
                if found == "not found" && role == "user" {
                    hidden.push(without_ids(&rest, &request));
                }
                if row.audited {
                    let code = match &answer {
                        Ok(_) => "OK",
                        Err(status) if status.code() == Code::NotFound => "NOT_FOUND",
                        Err(_) => "PERMISSION_DENIED",
                    };
                    audited.insert(name.clone(), (request.clone(), code));
                } else {
                    unaudited.push(name.clone());
                }
                if is_admins {
                    // Tried where it is not served, it is on record too, under its own id.
                    let elsewhere = Call {
                        name: &format!("{name}-public"),
                        ..one()
                    };
                    let status = call(rig.channel(), elsewhere).await.unwrap_err();
                    assert_eq!(status.code(), Code::Unimplemented, "{rpc} is public");
                }
            }
            if hidden.windows(2).any(|pair| pair[0] != pair[1]) {
                faults.push(format!(
                    "{rpc}: somebody else's and nobody's are told apart: {hidden:?}"
                ));
            }
        }
        for channel in [rig.channel(), admin.clone()] {
            let nobody = Call {
                method: &method,
                request: "{}",
                token: None,
                name: "nobody",
            };
            let status = call(channel, nobody).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{rpc}");
            calls += 1;
        }
    }
    faults.extend(
        rows.keys()
            .map(|rpc| format!("{rpc}: a row without an rpc")),
    );
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    check_audit(&rig, &audited, &unaudited).await;
    println!("{calls} calls, {} of them on record", audited.len());
}

/// The answer with the ids that its request named left out.
fn without_ids(answer: &str, request: &str) -> String {
    let request: serde_json::Value = serde_json::from_str(request).unwrap();
    let mut answer = answer.to_owned();
    let mut values = vec![&request];
    while let Some(value) = values.pop() {
        match value {
            serde_json::Value::Object(fields) => values.extend(fields.values()),
            serde_json::Value::String(id) => {
                // In the details the id stands as bytes, after its length.
                let bytes = format!("{:?}", bytes::Bytes::copy_from_slice(id.as_bytes()));
                answer =
                    answer.replace(bytes.trim_start_matches("b\"").trim_end_matches('"'), "ID");
            }
            _ => {}
        }
    }
    answer.chars().filter(char::is_ascii_alphabetic).collect()
}
