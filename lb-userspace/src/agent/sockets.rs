//! Closes sockets of this node that connected to a Service of datagrams, and whose backend no longer serves it. The
//! process opens another, which goes to a backend of today; one that waits for an answer hears at once that none comes.
//! Connections of TCP stay, as the contract has it.

use anyhow::Context;
use lb_common::ip::{Be16, V4, V6};
use lb_common::tables::{FrontendKey, SocketKey};
use tracing::debug;

use crate::bpf::{BpfStore, Of};
use crate::diag::{Connected, Diag};
use crate::flows::Current;
use crate::model::Protocol;
use crate::plan::{Departed, Departures};

/// How many it was. Which backends left is known, or else is found by comparing with the maps.
pub(super) fn close_lost(store: &mut BpfStore, departures: Option<&Departures>) -> anyhow::Result<usize> {
    if departures.is_some_and(|all| all.v4.datagrams.is_empty() && all.v6.datagrams.is_empty()) {
        return Ok(0);
    }
    let mut diag = Diag::open().context("the kernel cannot list sockets")?;
    let sockets = diag.connected_datagrams().context("the kernel cannot list sockets of UDP")?;
    let v4 = lost::<V4>(store, departures.map(|all| &all.v4), &sockets)?;
    let v6 = lost::<V6>(store, departures.map(|all| &all.v6), &sockets)?;
    let lost = [v4, v6].concat();
    for socket in &lost {
        debug!("closing a socket that is connected to {}, which serves no more", socket.peer());
        diag.close(socket).context("the kernel cannot close sockets")?;
    }
    Ok(lost.len())
}

/// Those whose Service no longer leads to their peer.
fn lost<'a, A: Of>(
    store: &mut BpfStore,
    departed: Option<&Departed<A>>,
    sockets: &'a [Connected],
) -> anyhow::Result<Vec<&'a Connected>> {
    let mut led = Vec::new();
    for socket in sockets {
        let peer = socket.peer();
        let Some(addr) = A::from_ip(peer.ip()) else { continue };
        let port = Be16::new(peer.port());
        // Whoever connected to a pod itself meant just that.
        if let Some(meant) = store.maps().meant(&SocketKey { cookie: socket.cookie(), addr, port })? {
            let frontend = FrontendKey::new(meant.addr, meant.port, Protocol::Udp.number());
            led.push((socket, frontend, (addr, port)));
        }
    }
    match departed {
        Some(departed) => {
            led.retain(|(_, frontend, to)| {
                let leads = departed.datagrams.get(frontend).filter(|leads| leads.lost);
                leads.is_some_and(|leads| leads.now.values().all(|at| at != to))
            });
        }
        None => {
            let image = store.read_frontends(led.iter().map(|(_, frontend, _)| *frontend))?;
            let mut current = Current::<A>::new(&image);
            led.retain(|(_, frontend, to)| !current.leads_to(frontend, *to));
        }
    }
    Ok(led.into_iter().map(|(socket, ..)| socket).collect())
}
