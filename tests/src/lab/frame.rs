//! Raw Ethernet frames on a device: what a socket would not send, and what really arrived.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::Netns;

/// A packet socket bound to one device: it sends frames, and sees all frames that come in.
#[derive(Debug)]
pub struct Frames {
    socket: Socket,
}

impl Frames {
    /// Opens `device` in `ns`.
    pub fn open(ns: &Netns, device: &str) -> Result<Self> {
        ns.run(|| {
            let all = (libc::ETH_P_ALL as u16).to_be();
            let protocol = Protocol::from(i32::from(all));
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("cannot open a packet socket")?;
            let index = nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))?;
            socket.bind(&link_address(all, index)).with_context(|| format!("cannot bind to {device}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            // Room for a burst of some thousand frames; as root, above the limit of the system.
            setsockopt(&socket, RcvBufForce, &(16 << 20)).context("cannot enlarge a packet socket's buffer")?;
            Ok(Self { socket })
        })
    }

    /// The hardware address of `device` in `ns`.
    pub fn address(ns: &Netns, device: &str) -> Result<[u8; 6]> {
        ns.run(|| {
            let mut all = nix::ifaddrs::getifaddrs().context("cannot list the devices")?;
            let of_device = all.find_map(|found| {
                (found.interface_name == device).then_some(())?;
                found.address?.as_link_addr()?.addr()
            });
            of_device.with_context(|| format!("{device} has no hardware address"))
        })
    }

    /// Sends one frame, from its destination address on; waits where the other end of a veth takes no more for now.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        let sent = loop {
            match self.socket.write(frame) {
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) && Instant::now() < end => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                result => break result.context("cannot send a frame")?,
            }
        };
        anyhow::ensure!(sent == frame.len(), "{sent} of {} bytes of a frame were sent", frame.len());
        Ok(())
    }

    /// The first frame within `time` that `wanted` accepts.
    pub fn receive(&mut self, time: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 65_536];
        while Instant::now() < end {
            match self.socket.read(&mut buffer) {
                Ok(n) if wanted(&buffer[..n]) => return Ok(Some(buffer[..n].to_vec())),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("cannot receive frames"),
            }
        }
        Ok(None)
    }
}

fn link_address(protocol: u16, index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types that the storage is made for, and all zeros are valid in it.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the storage holds a `sockaddr_ll`, whose size is given.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
