//! The reconciler and its source, as the main loop hears of them.

use std::sync::mpsc;

use lb_common::tables::map;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Settings;
use super::source::Opened;
use crate::bpf::{BpfStore, Maps};
use crate::compile::{Limits, NodeFacts};
use crate::metrics::Programming;
use crate::plan::Departures;
use crate::reconcile::{self, Listeners, News, Options, Status};
use crate::watch::{Feed, Health};

/// The reconciler and its source.
pub(super) struct Engine {
    pub(super) task: JoinHandle<()>,
    node: watch::Sender<NodeFacts>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) status: watch::Receiver<Status>,
}

impl Engine {
    /// Starts it on the maps, with what is known of this node.
    pub(super) fn start(
        settings: &Settings,
        facts: NodeFacts,
        source: Opened,
        programming: Programming,
        departures: mpsc::Sender<Departures>,
    ) -> anyhow::Result<Self> {
        let mut store = BpfStore::open(&settings.pins)?;
        let options = Options { limits: limits(store.maps()), programming, ..Options::new(facts.clone()) };
        let Feed { messages, mut health } = source.start(&settings.run_dir, &mut store)?;
        health.mark_changed();
        let (node, news_of_node) = watch::channel(facts);
        let (sender, status) = watch::channel(Status::default());
        let news = News { messages, node: news_of_node };
        let listeners = Listeners { status: sender, departures };
        let task = tokio::spawn(reconcile::run(store, options, news, listeners));
        Ok(Self { task, node, health, status })
    }

    /// What is known of this node now.
    pub(super) fn move_to(&self, facts: NodeFacts) {
        self.node.send_if_modified(|known| {
            let news = *known != facts;
            *known = facts;
            news
        });
    }

    /// Stops between two rounds: no write is left half done.
    pub(super) async fn stop(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// The room that there is, which may be another than the options say.
fn limits(maps: &Maps) -> Limits {
    let least = |names: [&str; 2]| names.map(|name| maps.capacity(name)).into_iter().min().unwrap_or(0);
    Limits {
        services: least(map::FRONTENDS).min(maps.capacity(map::NAMES)),
        backends: least(map::BACKENDS),
        slots: maps.capacity(map::SLOTS),
        source_ranges: least(map::SOURCE_RANGES),
    }
}
