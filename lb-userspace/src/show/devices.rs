//! Devices, one a row.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::Row;
use crate::bpf::{Attachment, Hook, Note};

/// A device with programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceRow {
    /// Its name.
    pub device: String,
    /// Its index.
    pub index: u32,
    /// `nic`, `pod`, `overlay`, `service`, `vlan` or `loopback`.
    pub kind: &'static str,
    /// How the programs at its ingress are attached.
    pub ingress: String,
    /// How those at its egress are.
    pub egress: String,
    /// Why it is not as asked for.
    pub note: String,
}

impl Row for DeviceRow {
    const COLUMNS: &'static [&'static str] = &["DEVICE", "INDEX", "KIND", "INGRESS", "EGRESS", "NOTE"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let Self { device, index, kind, ingress, egress, note } = self;
        vec![device.clone(), index.to_string(), (*kind).to_owned(), ingress.clone(), egress.clone(), note.clone()]
    }

    fn wide(&self) -> Vec<String> {
        Vec::new()
    }
}

/// All devices with programs, NICs first, then by index.
pub fn devices(
    attachments: &[Attachment],
    name: impl Fn(u32) -> Option<String>,
    notes: &BTreeMap<u32, Note>,
) -> Vec<DeviceRow> {
    let mut rows = BTreeMap::new();
    for attachment in attachments {
        let row = rows.entry((attachment.role, attachment.index)).or_insert_with(|| {
            let found = name(attachment.index);
            // A stopped agent leaves the pins of devices that go.
            let gone = if found.is_some() { "" } else { "the device is gone" };
            DeviceRow {
                device: found.unwrap_or_default(),
                index: attachment.index,
                kind: attachment.role.label(),
                ingress: String::new(),
                egress: String::new(),
                note: notes.get(&attachment.index).map_or_else(|| gone.to_owned(), ToString::to_string),
            }
        });
        let side = match attachment.hook {
            Hook::Xdp | Hook::TcIngress => &mut row.ingress,
            Hook::TcEgress | Hook::TcService | Hook::TcLoopback => &mut row.egress,
        };
        if !side.is_empty() {
            side.push('+');
        }
        side.push_str(attachment.how.title());
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::{Output, render};
    use super::*;
    use crate::bpf::How;
    use crate::devices::Role;

    #[test]
    fn devices_show_how_and_why() {
        let at = |index, role, hook, how| Attachment { index, role, hook, how };
        let attachments = [
            at(2, Role::Nic, Hook::Xdp, How::Generic),
            at(2, Role::Nic, Hook::TcEgress, How::Tcx),
            at(5, Role::Pod, Hook::TcIngress, How::Clsact),
            at(5, Role::Pod, Hook::TcEgress, How::Clsact),
            at(9, Role::Pod, Hook::TcEgress, How::Tcx),
        ];
        let note = Note { xdp: Some("xdp native: the driver cannot do it".to_owned()), ..Note::default() };
        let notes = [(2, note)].into();
        let name = |index| (index < 9).then(|| format!("dev{index}"));
        assert_eq!(
            render(&devices(&attachments, name, &notes), Output::Table).unwrap(),
            "\
DEVICE   INDEX   KIND   INGRESS       EGRESS   NOTE
dev2     2       nic    xdp generic   tcx      xdp native: the driver cannot do it
dev5     5       pod    clsact        clsact   -
-        9       pod    -             tcx      the device is gone
"
        );
    }
}
