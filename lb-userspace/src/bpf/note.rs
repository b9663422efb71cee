//! Why programs are attached in another way than the best.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Hook;

/// Why a device is not attached as asked for, of each side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Its egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// Before its stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<String>,
}

impl Note {
    pub(super) const fn side(&mut self, hook: Hook) -> &mut Option<String> {
        match hook {
            Hook::Xdp => &mut self.xdp,
            Hook::TcIngress => &mut self.ingress,
            Hook::TcEgress | Hook::TcService | Hook::TcLoopback => &mut self.egress,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ingress, egress, xdp } = self;
        f.write_str(xdp.as_deref().unwrap_or_default())?;
        if xdp.is_some() && (ingress.is_some() || egress.is_some()) {
            f.write_str("; ")?;
        }
        match (ingress, egress) {
            (Some(ingress), Some(egress)) if ingress != egress => write!(f, "{ingress}; egress: {egress}"),
            (Some(one), _) | (None, Some(one)) => f.write_str(one),
            (None, None) => Ok(()),
        }
    }
}
