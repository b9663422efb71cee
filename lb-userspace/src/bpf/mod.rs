//! The kernel: maps, programs and links. The only place that names aya, and one that never knows of Services or
//! policy. Its `unsafe` is the borders to the kernel: system calls, mapped memory, plain bytes.
#![allow(unsafe_code)]

mod attach;
mod btf;
mod chunks;
mod clock;
mod clsact;
mod dense;
mod devices;
mod epoch;
mod error;
mod flow_tables;
mod flows;
mod grow;
mod maps;
mod modes;
mod mount;
mod note;
mod object;
mod pins;
mod run;
mod same;
mod shape;
mod slots;
mod sockets;
mod store;
mod sys;
mod table;
mod traffic;
mod uninstall;

pub use attach::Attacher;
pub use clock::{in_ticks, now, ticks};
pub use epoch::Epoch;
pub use error::Error;
pub use flow_tables::{LargerTables, Move, larger_flow_tables};
pub use flows::{Entries, affinity_map, counters, flow_map, remove_affinity};
pub use maps::{FamilyMaps, Fill, Maps, Of};
pub use modes::{TcMode, XdpMode};
pub use mount::mount_bpffs;
pub use note::Note;
pub use object::{Object, Programs};
pub use pins::{Attachment, Lock, Pins};
pub use run::Run;
pub use shape::Capacities;
pub use sockets::{attach_sockets, cgroup2_mount, detach_sockets, mend_sockets};
pub use store::BpfStore;
pub use sys::{device_name, netns_cookie};
pub use table::Seeker;
pub use traffic::traffic;
pub use uninstall::{Removed, remove_older_layouts, uninstall};

use aya::Pod;
use lb_common::tables::{Entry, Side};

/// An entry of a map, as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: an Entry is plain integers, repr(C), and proves when it compiles that it has no padding.
unsafe impl<T: Entry> Pod for Raw<T> {}

/// Where on a device a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Ingress, before the stack.
    Xdp,
    /// Ingress, in the stack.
    TcIngress,
    /// Egress.
    TcEgress,
    /// Egress of the service device.
    TcService,
    /// Egress of the loopback device.
    TcLoopback,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Xdp, Self::TcIngress, Self::TcEgress, Self::TcService, Self::TcLoopback];

    /// The program that runs there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "xdp_ingress",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
            Self::TcService => "tc_service",
            Self::TcLoopback => "tc_loopback",
        }
    }

    /// Packets that come in meet it, or those that go out. Those that go out through the service device have only now come in,
    /// and so have those that go there by the loopback device.
    const fn side(self) -> Side {
        match self {
            Self::TcEgress => Side::Egress,
            Self::Xdp | Self::TcIngress | Self::TcService | Self::TcLoopback => Side::Ingress,
        }
    }
}

/// In which way a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// XDP in the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// A link at TC.
    Tcx,
    /// A filter at TC, for kernels before 6.6.
    Clsact,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Native, Self::Generic, Self::Tcx, Self::Clsact];

    /// Its name in pins.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Its name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Native => "xdp native",
            Self::Generic => "xdp generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

#[cfg(test)]
mod tests;
