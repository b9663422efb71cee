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

/// How many it was.
pub(super) fn close_lost(store: &mut BpfStore) -> anyhow::Result<usize> {
    let mut diag = Diag::open().context("the kernel cannot list sockets")?;
    let sockets = diag.connected_datagrams().context("the kernel cannot list sockets of UDP")?;
    let lost = [lost::<V4>(store, &sockets)?, lost::<V6>(store, &sockets)?].concat();
    for socket in &lost {
        debug!("closing a socket that is connected to {}, which serves no more", socket.peer());
        diag.close(socket).context("the kernel cannot close sockets")?;
    }
    Ok(lost.len())
}

/// Those whose Service no longer leads to their peer.
fn lost<'a, A: Of>(store: &mut BpfStore, sockets: &'a [Connected]) -> anyhow::Result<Vec<&'a Connected>> {
    let mut led = Vec::new();
    for socket in sockets {
        let peer = socket.peer();
        let Some(addr) = A::from_ip(peer.ip()) else { continue };
        let port = Be16::new(peer.port());
        // Whoever connected to a pod itself meant just that.
        if let Some(meant) = store.maps().meant(&SocketKey { cookie: socket.cookie(), addr, port, zero: 0 })? {
            let frontend = FrontendKey::new(meant.addr, meant.port, Protocol::Udp.number());
            led.push((socket, frontend, (addr, port)));
        }
    }
    let image = store.read_frontends(led.iter().map(|(_, frontend, _)| *frontend))?;
    let mut current = Current::<A>::new(&image);
    led.retain(|(_, frontend, to)| !current.leads_to(frontend, *to));
    Ok(led.into_iter().map(|(socket, ..)| socket).collect())
}
