//! The rpcs of the services, read from the contract's descriptors: what sort each one is, whether
//! it is audited, and whether it asks for new work.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// What sort of work an rpc is; each has its own bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sort {
    /// One request, one response, soon.
    Call,
    /// A stream of events.
    Watch,
    /// A stream of bytes.
    Download,
}

/// What is known of an rpc.
#[derive(Debug, Clone)]
pub struct Method {
    /// "Service/Method": a name for logs and metrics.
    pub label: &'static str,
    /// What sort it is.
    pub sort: Sort,
    /// Whether it is noted who called it.
    pub audited: bool,
    /// Whether it asks for new work.
    pub creates: bool,
    /// Whether that work is a job.
    pub makes_job: bool,
    /// Its request.
    pub input: MessageDescriptor,
    /// Its response.
    pub output: MessageDescriptor,
}

/// Every rpc of the API, by its path.
#[derive(Debug, Clone)]
pub struct Methods {
    by_path: HashMap<String, Method>,
}

impl Methods {
    /// Reads them from the contract.
    pub fn load() -> Self {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap_or_default();
        let mut by_path = HashMap::new();
        for service in pool.services() {
            for rpc in service.methods() {
                let name = rpc.name();
                let sort = match (rpc.is_server_streaming(), name) {
                    (false, _) => Sort::Call,
                    (true, name) if name.starts_with("Download") => Sort::Download,
                    (true, _) => Sort::Watch,
                };
                let creates = is_any(name, &["Create", "Start", "Verify"]);
                let method = Method {
                    // Lives as long as the process, and there are a few dozen.
                    label: Box::leak(format!("{}/{name}", service.name()).into_boxed_str()),
                    sort,
                    audited: is_audited(service.name(), name),
                    creates,
                    makes_job: creates && !name.ends_with("Draft"),
                    input: rpc.input(),
                    output: rpc.output(),
                };
                by_path.insert(format!("/{}/{name}", service.full_name()), method);
            }
        }
        Self { by_path }
    }

    /// The rpc at a path; `None` for what is not of the API (health, reflection).
    pub fn get(&self, path: &str) -> Option<&Method> {
        self.by_path.get(path)
    }

    /// What sort the rpc at a path is; `None` for what is not of the API.
    pub fn sort(&self, path: &str) -> Option<Sort> {
        self.get(path).map(|method| method.sort)
    }

    /// A name for metrics: of a bounded number, whatever callers send.
    pub fn label(&self, path: &str) -> &'static str {
        self.get(path).map_or("other", |method| method.label)
    }

    /// All paths.
    #[cfg(test)]
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }
}

fn is_any(name: &str, verbs: &[&str]) -> bool {
    verbs.iter().any(|verb| name.starts_with(verb))
}

/// Whatever is not known to be a harmless question is audited: a new rpc is, until somebody decides
/// otherwise. Administrators' calls always are, and so is whatever tells what a backup holds.
fn is_audited(service: &str, name: &str) -> bool {
    service == "AdminService"
        || name == "ListBackupEntries"
        || !is_any(name, &["Get", "List", "Watch", "Preview", "Check"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_its_sort() {
        let methods = Methods::load();
        let sort = |name: &str| methods.sort(&format!("/nora.backup.v1.{name}"));
        assert_eq!(sort("BackupService/CreateBackup"), Some(Sort::Call));
        assert_eq!(sort("BackupService/WatchBackup"), Some(Sort::Watch));
        assert_eq!(sort("RestoreService/WatchRestore"), Some(Sort::Watch));
        assert_eq!(sort("BackupService/DownloadEntry"), Some(Sort::Download));
        assert_eq!(sort("BackupService/Nothing"), None);
        assert_eq!(methods.paths().count(), 46);
    }

    #[test]
    fn what_changes_or_reads_out_data_is_audited() {
        let methods = Methods::load();
        let not_audited: Vec<&str> = methods
            .by_path
            .values()
            .filter(|method| !method.audited)
            .map(|method| method.label)
            .collect();
        for label in &not_audited {
            let (service, name) = label.split_once('/').unwrap();
            assert_ne!(service, "AdminService");
            assert!(
                is_any(name, &["Get", "List", "Watch", "Preview", "Check"]),
                "{label}"
            );
        }
        let label = |name: &str| methods.label(&format!("/nora.backup.v1.{name}"));
        assert!(!not_audited.contains(&label("BackupService/ListBackupEntries")));
        assert!(not_audited.contains(&label("BackupService/ListBackups")));
    }

    #[test]
    fn what_makes_a_job_is_told_from_a_plan() {
        let methods = Methods::load();
        let method = |name: &str| methods.get(&format!("/nora.backup.v1.{name}")).unwrap();
        assert!(method("BackupService/CreateBackup").makes_job);
        assert!(method("BackupService/VerifyBackup").makes_job);
        assert!(method("RestoreService/StartRestore").makes_job);
        let draft = method("RestoreService/CreateRestoreDraft");
        assert!(draft.creates && !draft.makes_job);
        assert!(!method("BackupService/DeleteBackup").creates);
    }
}
