//! The loop: news come in, and the maps follow.
//!
//! ```text
//! messages ─► State ─► ready? ─► hold off ─► compile ─► plan ─► store ─► settle
//!                                   ▲                             │ error
//!                                   └── wait, read the maps back ◄┘
//! ```
//! A sweep now and then reads the maps back and repairs what others did to them.

mod engine;
mod pace;
mod status;

use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

pub use engine::{Engine, Options};
pub use status::Status;

use crate::compile::NodeFacts;
use crate::plan::Departures;
use crate::store::Store;
use crate::watch::Arrived;

/// What the loop listens to.
#[derive(Debug)]
pub struct News {
    /// What was declared.
    pub messages: mpsc::Receiver<Arrived>,
    /// What is known of this node.
    pub node: watch::Receiver<NodeFacts>,
}

/// Where the loop tells how it does.
#[derive(Debug)]
pub struct Listeners {
    /// How it is doing.
    pub status: watch::Sender<Status>,
    /// What changed in where frontends lead, each time when the maps say so.
    pub departures: std::sync::mpsc::Sender<Departures>,
}

/// Keeps the maps of `store` as the news want them, until no more messages can come.
///
/// Writes are made in place, not in a thread of their own: each takes about a microsecond.
pub async fn run<S: Store>(
    store: S,
    options: Options,
    News { mut messages, mut node }: News,
    Listeners { status, departures }: Listeners,
) {
    let mut engine = Engine::new(store, options, Instant::now());
    loop {
        if engine.due().is_some_and(|due| due <= Instant::now()) {
            engine.work(Instant::now);
            let departed = engine.take_departures();
            if !departed.is_empty() {
                // Whoever does not listen needs to know nothing.
                let _ = departures.send(departed);
            }
        }
        status.send_if_modified(|published| {
            let news = published != engine.status();
            if news {
                published.clone_from(engine.status());
            }
            news
        });
        let due = engine.due();
        tokio::select! {
            message = messages.recv() => match message {
                Some(Arrived { at, message }) => engine.receive(message, at),
                None => return,
            },
            Ok(()) = node.changed() => engine.move_to(node.borrow_and_update().clone(), Instant::now()),
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        while let Ok(Arrived { at, message }) = messages.try_recv() {
            engine.receive(message, at);
        }
    }
}
