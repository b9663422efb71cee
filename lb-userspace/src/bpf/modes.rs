//! In which ways programs are attached, as options say it.

use super::{Hook, How};

/// How the program before the stack is attached at NICs, where a program at TC takes what it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, else in the stack, else not at all.
    Native,
    /// In the stack, else not at all.
    Generic,
    /// Not at all.
    Off,
}

/// How programs are attached at TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMode {
    /// With links, else with filters.
    Tcx,
    /// With filters.
    Clsact,
}

impl XdpMode {
    /// The ways to try, the best first.
    pub(super) const fn candidates(self) -> &'static [(Hook, How)] {
        const ALL: [(Hook, How); 2] = [(Hook::Xdp, How::Native), (Hook::Xdp, How::Generic)];
        match self {
            Self::Native => &ALL,
            Self::Generic => ALL.split_at(1).1,
            Self::Off => &[],
        }
    }
}

impl TcMode {
    /// The ways to try at a hook, the best first.
    pub(super) const fn candidates(self, hook: Hook) -> &'static [(Hook, How)] {
        const INGRESS: [(Hook, How); 2] = [(Hook::TcIngress, How::Tcx), (Hook::TcIngress, How::Clsact)];
        const EGRESS: [(Hook, How); 2] = [(Hook::TcEgress, How::Tcx), (Hook::TcEgress, How::Clsact)];
        const SERVICE: [(Hook, How); 2] = [(Hook::TcService, How::Tcx), (Hook::TcService, How::Clsact)];
        const LOOPBACK: [(Hook, How); 2] = [(Hook::TcLoopback, How::Tcx), (Hook::TcLoopback, How::Clsact)];
        let both: &[_] = match hook {
            Hook::TcEgress => &EGRESS,
            Hook::TcService => &SERVICE,
            Hook::TcLoopback => &LOOPBACK,
            Hook::Xdp | Hook::TcIngress => &INGRESS,
        };
        match self {
            Self::Tcx => both,
            Self::Clsact => both.split_at(1).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_of_an_option_are_tried_from_the_best_to_the_simplest() {
        let ways = |list: &[(Hook, How)]| list.iter().map(|(_, how)| how.label()).collect::<Vec<_>>();
        assert_eq!(ways(XdpMode::Native.candidates()), ["native", "generic"]);
        assert_eq!(ways(XdpMode::Generic.candidates()), ["generic"]);
        assert!(XdpMode::Off.candidates().is_empty());
        for hook in [Hook::TcIngress, Hook::TcEgress, Hook::TcService, Hook::TcLoopback] {
            assert_eq!(ways(TcMode::Tcx.candidates(hook)), ["tcx", "clsact"]);
            assert_eq!(ways(TcMode::Clsact.candidates(hook)), ["clsact"]);
            assert!(TcMode::Tcx.candidates(hook).iter().all(|(at, _)| *at == hook));
        }
    }
}
