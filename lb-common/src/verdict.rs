//! What becomes of a packet, and why. Each [`Reason`] is one counter, one row of the CLI and one metric label.

/// What the program must do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it go as it came.
    Pass(Reason),
    /// It was translated; let it go on up the stack.
    Forward(Reason),
    /// It was translated; send it back out of the device it came from, MACs swapped.
    Return(Reason),
    /// It was translated and has its MACs; send it out of this device, by its index.
    Leave(Reason, u32),
    /// It was translated; send it out of this device, by its index, with the MACs that the kernel knows or finds out.
    LeaveToNeighbour(Reason, u32),
    /// It was translated; let it come in anew through the service device, or the loopback device if it has that one's MAC, and
    /// up the stack.
    Enter(Reason),
    /// It was made its own answer; send it back out of the device it came from, MACs swapped.
    Answer(Reason),
    /// Refuse it: answer with [`crate::reject`].
    Reject(Reason),
    /// Let it vanish.
    Drop(Reason),
}

impl Verdict {
    /// Whether the packet goes on as its flow says, if only by the next program.
    #[inline(always)]
    pub const fn goes_on(self) -> bool {
        self.translated() || matches!(self, Self::Pass(Reason::HandedOver))
    }

    /// Whether the packet was translated, wherever it goes.
    #[inline(always)]
    pub const fn translated(self) -> bool {
        matches!(
            self,
            Self::Forward(_) | Self::Return(_) | Self::Leave(..) | Self::LeaveToNeighbour(..) | Self::Enter(_)
        )
    }

    /// Why.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(r)
            | Self::Forward(r)
            | Self::Return(r)
            | Self::Leave(r, _)
            | Self::LeaveToNeighbour(r, _)
            | Self::Enter(r)
            | Self::Answer(r)
            | Self::Reject(r)
            | Self::Drop(r) => r,
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident => $label:literal,)*) => {
        /// Why a packet got its verdict. The number is the index in the `COUNTERS` map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in the CLI and in metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

reasons! {
    /// Not for a Service. Not counted: strangers must cost nothing.
    NotService => "not_service",
    /// Neither IPv4 nor IPv6. Not counted.
    NotIp => "not_ip",
    /// A protocol without ports (a tunnel, for example). Not counted.
    NoPorts => "no_ports",
    /// ICMP that has nothing to do with a Service. Not counted.
    Icmp => "icmp",
    /// An ICMP error about a packet of a flow, translated with the packet that it quotes.
    IcmpError => "icmp_error",
    /// An echo request (ping) to a virtual IP, answered.
    Echo => "echo",
    /// A fragment to a virtual IP that overtook the one with the ports.
    Fragment => "fragment",
    /// A fragment behind the first of its packet, translated like that.
    LaterFragment => "later_fragment",
    /// The first fragment of a packet of SCTP, whose checksum cannot follow to other ports: it covers the others, too.
    SctpFragment => "sctp_fragment",
    /// Passed as it came: shorter than its headers say, or headers that contradict each other.
    Malformed => "malformed",
    /// Passed as it came: more IPv6 extension headers than are followed.
    ExtensionHeaders => "extension_headers",
    /// First packet of a flow: a backend was chosen.
    NewFlow => "new_flow",
    /// A flow whose other side has not spoken yet.
    HalfOpenFlow => "half_open_flow",
    /// An established flow.
    EstablishedFlow => "established_flow",
    /// An answer, translated back.
    Reply => "reply",
    /// Passed as it came: in mid-stream and of no flow, so of a connection that another proxy began (option --takeover).
    Stranger => "stranger",
    /// Passed as it came: it would begin a flow, and no new ones are taken on (sluice uninstall --drain).
    Draining => "draining",
    /// Translated without a flow entry, since the flow table is full or the packet ends a flow nobody knows.
    Stateless => "stateless",
    /// No endpoint of the Service is usable.
    NoEndpoints => "no_endpoints",
    /// A traffic policy asks for endpoints on this node, and all that are usable are elsewhere.
    NoLocalEndpoints => "no_local_endpoints",
    /// The client is not in the Service's loadBalancerSourceRanges.
    SourceRange => "source_range",
    /// The Service does not have this port.
    NoSuchPort => "no_such_port",
    /// The tables name a backend that does not exist; a new table is on its way.
    NoBackend => "no_backend",
    /// No source port was free for the translated flow.
    NoSourcePort => "no_source_port",
    /// The node has no address to stand between client and backend (a pod that reached itself, a backend on another node).
    NoNodeAddress => "no_node_address",
    /// XDP could not send the packet on; the program at TC does, and counts it, too.
    HandedOver => "handed_over",
    /// No route leads to the backend on another node, or to its client, or forwarding is off.
    NoRoute => "no_route",
    /// The packet has no hops left to be sent on to another node.
    HopLimit => "hop_limit",
    /// The packet is too long for the way to another node; its sender is told the MTU.
    TooLong => "too_long",
    /// To an address that is in a range of virtual IPs, and no Service's.
    Unallocated => "unallocated",
    /// The kernel refused to change the packet.
    WriteFailed => "write_failed",
    /// The program that goes on with such packets is not in its place: start the agent anew.
    NoProgram => "no_program",
    /// An established flow could not be kept as such, since the table is full (option --max-flows).
    FlowTableFull => "flow_table_full",
    /// A socket was connected, or a datagram sent, straight to a backend.
    SocketTranslated => "socket_translated",
    /// A socket was refused, since the Service has no usable endpoint.
    SocketRefused => "socket_refused",
}

impl Reason {
    /// That of a packet with a flow, from its number.
    #[inline(always)]
    pub const fn of_flow(number: u32) -> Self {
        const NEW: u32 = Reason::NewFlow as u32;
        const HALF_OPEN: u32 = Reason::HalfOpenFlow as u32;
        const ESTABLISHED: u32 = Reason::EstablishedFlow as u32;
        const REPLY: u32 = Reason::Reply as u32;
        match number {
            NEW => Self::NewFlow,
            HALF_OPEN => Self::HalfOpenFlow,
            ESTABLISHED => Self::EstablishedFlow,
            REPLY => Self::Reply,
            _ => Self::Stateless,
        }
    }

    /// Whether packets with this reason are counted. Counting a stranger would be most of what it costs.
    #[inline(always)]
    pub const fn is_counted(self) -> bool {
        !matches!(self, Self::NotService | Self::NotIp | Self::NoPorts | Self::Icmp)
    }

    /// How many there are: the capacity of the `COUNTERS` map.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}
