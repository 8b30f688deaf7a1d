//! The rpcs of the services, read from the contract's descriptors: what sort each one is.

use std::collections::HashMap;

use prost::Message as _;

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

/// Every rpc of the API, by its path.
#[derive(Debug, Clone)]
pub struct Methods {
    by_path: HashMap<String, (&'static str, Sort)>,
}

impl Methods {
    /// Reads them from the contract.
    pub fn load() -> Self {
        let files = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS)
            .map(|set| set.file)
            .unwrap_or_default();
        let mut by_path = HashMap::new();
        for file in files {
            for service in &file.service {
                for method in &service.method {
                    let sort = match (method.server_streaming(), method.name()) {
                        (false, _) => Sort::Call,
                        (true, name) if name.starts_with("Download") => Sort::Download,
                        (true, _) => Sort::Watch,
                    };
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    // Lives as long as the process, and there are a few dozen: a metric's label.
                    let label: &'static str =
                        Box::leak(format!("{}/{}", service.name(), method.name()).into_boxed_str());
                    by_path.insert(path, (label, sort));
                }
            }
        }
        Self { by_path }
    }

    /// What sort the rpc at a path is; `None` for what is not of the API (health, reflection).
    pub fn sort(&self, path: &str) -> Option<Sort> {
        self.by_path.get(path).map(|(_, sort)| *sort)
    }

    /// A name for metrics: of a bounded number, whatever callers send.
    pub fn label(&self, path: &str) -> &'static str {
        self.by_path.get(path).map_or("other", |(label, _)| *label)
    }

    /// All paths.
    #[cfg(test)]
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }
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
        assert_eq!(methods.paths().count(), 36);
    }
}
