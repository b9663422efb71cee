//! The source that the settings name.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use super::{RunDir, Source};
use crate::bpf::BpfStore;
use crate::store::Store;
use crate::watch::kubernetes::{self, Events, Servers};
use crate::watch::{Feed, Health, files};

/// A source that is known to be there, as far as that can be known without asking it.
pub(super) enum Opened {
    Manifests(PathBuf),
    /// It is asked already: lists come in while programs are loaded.
    Kubernetes(Arc<Servers>, Feed),
}

impl Opened {
    pub(super) async fn new(source: &Source) -> anyhow::Result<Self> {
        Ok(match source {
            Source::Manifests(folder) => Self::Manifests(folder.clone()),
            Source::Kubernetes(access) => {
                let servers = Servers::new(access).await?;
                let feed = kubernetes::watch(&servers);
                Self::Kubernetes(servers, feed)
            }
        })
    }

    /// What it says; what the maps serve now, `store` knows.
    pub(super) fn start(self, run_dir: &RunDir, store: &mut BpfStore) -> anyhow::Result<Feed> {
        match self {
            Self::Kubernetes(_, feed) => Ok(feed),
            Self::Manifests(folder) => {
                let mut kept = files::Kept::new(run_dir.manifests());
                if !kept.is_complete() && serves_nothing(store)? {
                    kept.start_afresh();
                }
                let messages = files::watch(&folder, kept);
                let messages = messages.with_context(|| format!("cannot watch the folder {}", folder.display()))?;
                let source = format!("manifests in {}", folder.display());
                let (_, health) = watch::channel(Health { source, ..Health::default() });
                Ok(Feed { messages, health })
            }
        }
    }

    /// Where problems of objects are told, where that is possible.
    pub(super) fn events(&self, node: &str) -> Option<Events> {
        match self {
            Self::Kubernetes(servers, _) => Some(Events::new(servers, node)),
            Self::Manifests(_) => None,
        }
    }
}

/// Whether no bad manifest can take anything away.
fn serves_nothing(store: &mut BpfStore) -> anyhow::Result<bool> {
    let image = store.read()?;
    Ok(image.v4.frontends.is_empty() && image.v6.frontends.is_empty())
}
