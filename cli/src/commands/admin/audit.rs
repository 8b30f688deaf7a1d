//! `admin audit`: GetAuditLog.

use std::time::Duration;

use clap::Args;
use proto::backup::v1::{AuditEntry, GetAuditLogRequest};
use serde_json::json;

use super::{PAGE_SIZE, ago};
use crate::{
    commands::token::span,
    connect::{Session, call},
    error::Result,
    output::{
        human,
        json::Document as _,
        table::{Align, Table},
    },
};

/// Arguments of `admin audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only calls about this: an agent's, backup's, restore's, job's or other id
    #[arg(value_name = "ID")]
    pub about: Option<String>,
    /// Only calls of this caller
    #[arg(long, value_name = "ID")]
    pub caller: Option<String>,
    /// Only calls of this method, for example BackupService/DeleteBackup
    #[arg(long, value_name = "SERVICE/METHOD")]
    pub method: Option<String>,
    /// Only calls of the last time, for example 90m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub since: Option<Duration>,
    /// Only calls that are longer ago than this
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub until: Option<Duration>,
    /// How many at the most
    #[arg(long, short = 'n', default_value_t = 100, value_name = "NUMBER")]
    pub limit: usize,
}

/// Runs it.
pub async fn run(session: &Session, args: AuditArgs) -> Result<()> {
    let mut request = GetAuditLogRequest {
        page_size: PAGE_SIZE.min(args.limit.max(1)) as i32,
        page_token: String::new(),
        caller_id: args.caller.unwrap_or_default(),
        method: args.method.unwrap_or_default(),
        resource_id: args.about.unwrap_or_default(),
        from_time: args.since.map(ago),
        before_time: args.until.map(ago),
    };
    let mut entries = Vec::new();
    loop {
        let page = session.admin().get_audit_log(call(request.clone())).await?;
        let page = page.into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() || entries.len() >= args.limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    entries.truncate(args.limit);
    let out = session.out;
    if out.json {
        let entries: Vec<_> = entries.iter().map(AuditEntry::to_json).collect();
        return out.document(&json!({ "entries": entries }));
    }
    if out.quiet {
        return entries
            .iter()
            .try_for_each(|entry| out.line(&entry.audit_id));
    }
    table(&entries).iter().try_for_each(|line| out.line(line))
}

fn table(entries: &[AuditEntry]) -> Vec<String> {
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("CALLER", Align::Left),
        ("ROLE", Align::Left),
        ("FROM", Align::Left),
        ("CALL", Align::Left),
        ("OUTCOME", Align::Left),
        ("ABOUT", Align::Left),
    ]);
    for entry in entries {
        let about = entry.resources.iter();
        let about: Vec<String> = about
            .map(|resource| format!("{}={}", resource.field, human::printable(&resource.id)))
            .collect();
        let outcome = if entry.reason.is_empty() {
            entry.code.clone()
        } else {
            human::printable(&entry.reason)
        };
        table.row(vec![
            human::time(entry.time.as_ref()),
            human::printable(&entry.caller_id),
            entry.role.clone(),
            human::printable(&entry.peer),
            entry.method.clone(),
            outcome,
            about.join(" "),
        ]);
    }
    table.lines()
}
