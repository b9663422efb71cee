//! Offload settings of a device, as `ethtool -K` sets them, through the same ioctl.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

use super::Netns;

/// One row of the table of offload settings. `true` is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// How the row is called in a test's output.
    pub name: &'static str,
    /// Checksums of sent packets are left to the device: packets carry partial checksums.
    pub tx_checksum: bool,
    /// Checksums of received packets are not verified again.
    pub rx_checksum: bool,
    /// The device splits large TCP segments; needs `tx_checksum`.
    pub tso: bool,
    /// Segments are split late, just before the device.
    pub gso: bool,
    /// Received segments are merged.
    pub gro: bool,
}

const ON: Offload = Offload { name: "all on", tx_checksum: true, rx_checksum: true, tso: true, gso: true, gro: true };

/// A veth as the kernel makes it: everything on except GRO.
pub const DEFAULT: Offload = Offload { name: "default", gro: false, ..ON };

/// What the sender toward an XDP program needs: XDP cannot see that a checksum is only partial.
pub const NO_TX_CHECKSUM: Offload = Offload { name: "tx off", tx_checksum: false, tso: false, ..ON };

/// Every setting that makes sense: the kernel switches TSO off where the device computes no checksums.
pub const TABLE: &[Offload] = &[
    DEFAULT,
    ON,
    Offload { name: "tso off", tso: false, ..DEFAULT },
    Offload { name: "tso and gso off", tso: false, gso: false, ..DEFAULT },
    Offload { name: "gso off", gso: false, ..DEFAULT },
    Offload { name: "tx off", ..NO_TX_CHECKSUM },
    Offload { name: "tx and gro off", gro: false, ..NO_TX_CHECKSUM },
    Offload { name: "tx and gso off", gso: false, ..NO_TX_CHECKSUM },
    Offload { name: "rx off", rx_checksum: false, ..DEFAULT },
    Offload { name: "all off", tx_checksum: false, rx_checksum: false, tso: false, gso: false, gro: false },
];

/// `ETHTOOL_G…` and `ETHTOOL_S…` of linux/ethtool.h, in the order in which they have to be set.
const COMMANDS: [(&str, u32, u32); 5] =
    [("rx", 0x14, 0x15), ("tx", 0x16, 0x17), ("gso", 0x23, 0x24), ("tso", 0x1e, 0x1f), ("gro", 0x2b, 0x2c)];

impl Offload {
    fn values(self) -> [bool; 5] {
        [self.rx_checksum, self.tx_checksum, self.gso, self.tso, self.gro]
    }

    /// Sets `device` in `ns`, and fails where the kernel did not take the setting.
    pub fn apply(self, ns: &Netns, device: &str) -> Result<()> {
        ns.run(|| {
            // Any socket will do: the ioctl only needs one of the namespace.
            let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
            for ((name, get, set), on) in COMMANDS.into_iter().zip(self.values()) {
                let about = || format!("offload `{name}` of {device} to {on}");
                let read = || ethtool(&socket, device, get, 0).with_context(|| format!("cannot read {}", about()));
                // Also setting what is set can be refused: XDP on a veth fixes TSO of its peer to off.
                if (read()? != 0) == on {
                    continue;
                }
                ethtool(&socket, device, set, u32::from(on)).with_context(|| format!("cannot set {}", about()))?;
                if (read()? != 0) != on {
                    bail!("the kernel did not set {}", about());
                }
            }
            Ok(())
        })
    }

    /// Reads the settings of `device` in `ns`.
    pub fn read(ns: &Netns, device: &str) -> Result<Self> {
        ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
            let mut on = [false; 5];
            for (slot, (name, get, _)) in on.iter_mut().zip(COMMANDS) {
                let value = ethtool(&socket, device, get, 0);
                *slot = value.with_context(|| format!("cannot read offload `{name}` of {device}"))? != 0;
            }
            let [rx_checksum, tx_checksum, gso, tso, gro] = on;
            Ok(Self { name: "as read", tx_checksum, rx_checksum, tso, gso, gro })
        })
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

fn ethtool(socket: &UdpSocket, device: &str, cmd: u32, data: u32) -> Result<u32> {
    let mut value = Value { cmd, data };
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        bail!("{device} is no name of a device: too long");
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    let data = std::ptr::from_mut(&mut value).cast();
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
    // SAFETY: the descriptor is open; `request` holds a name ended by zero and a pointer to `value`, of the layout
    // that these commands read and write, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &request) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(value.data)
}
