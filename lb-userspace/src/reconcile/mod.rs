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

use crate::store::Store;
use crate::watch::Message;

/// Keeps the maps of `store` as the messages want them, until no more can come.
///
/// Writes are made in place, not in a thread of their own: each takes about a microsecond.
pub async fn run<S: Store>(
    store: S,
    options: Options,
    mut messages: mpsc::Receiver<Message>,
    status: watch::Sender<Status>,
) {
    let mut engine = Engine::new(store, options, Instant::now());
    loop {
        if engine.due().is_some_and(|due| due <= Instant::now()) {
            engine.work(Instant::now);
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
                Some(message) => engine.receive(message, Instant::now()),
                None => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        while let Ok(message) = messages.try_recv() {
            engine.receive(message, Instant::now());
        }
    }
}
