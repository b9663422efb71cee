//! The ways that lead from a client to a Service, as rows for tables of tests.

use std::net::IpAddr;

use super::{AgentOptions, Family, Lab, Place, Pod, SocketPath, Xdp};

/// One way from a client to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a pod, packet by packet at its device.
    PodPacket,
    /// From a pod, translated once at its socket.
    PodSocket,
    /// From a process on the node, at its socket.
    Host,
    /// From outside, by XDP at the NIC.
    OutsideXdp,
    /// From outside, by TC at the NIC.
    OutsideTc,
}

/// Two settings of the agent that open all ways between them.
pub const WORLDS: [(AgentOptions, &[Way]); 2] = [
    (AgentOptions::USUAL, &[Way::PodPacket, Way::Host, Way::OutsideXdp]),
    (
        AgentOptions { socket_path: SocketPath::All, xdp: Xdp::Off, ..AgentOptions::USUAL },
        &[Way::PodSocket, Way::Host, Way::OutsideTc],
    ),
];

impl Way {
    /// Where a client of this way runs; `pod` is the client where it is one.
    pub fn place<'a>(self, lab: &'a Lab, pod: &'a Pod) -> Place<'a> {
        match self {
            Self::PodPacket => pod.client(),
            Self::PodSocket => lab.process_in(pod),
            Self::Host => lab.host(),
            Self::OutsideXdp | Self::OutsideTc => lab.outside(),
        }
    }

    /// The client's own address, which servers see.
    pub fn client_ip(self, pod: &Pod, family: Family) -> IpAddr {
        match self {
            Self::PodPacket | Self::PodSocket => pod.ip(family),
            Self::Host => family.node_ip(),
            Self::OutsideXdp | Self::OutsideTc => family.outside_ip(),
        }
    }
}
