//! What the programs must know of the device at which they run.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::tables::{device, map};

use super::maps::{self, Table};
use super::{Attachment, Error, Hook, How, Pins, Raw};
use crate::devices::{Device, Role};

/// The map `DEVICES`, kept in step with the devices that have programs.
#[derive(Debug)]
pub(super) struct Places {
    map: Table<u32, u32>,
}

impl Places {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self { map: maps::table(&pins.maps(), map::DEVICES)? })
    }

    /// Tells of devices: before a program runs there, or its first packets would be taken for a stranger's.
    pub(super) fn tell(&mut self, devices: &[Device]) -> Result<(), Error> {
        let known = self.read()?;
        if let Some(service) = devices.iter().find(|device| device.role == Role::Service) {
            self.write(&known, device::SERVICE_AT, service.index)?;
        }
        for device in devices {
            let bits = known.get(&device.index).copied().unwrap_or(0) & !device::INSIDE | origin(device.role);
            self.write(&known, device.index, bits)?;
        }
        Ok(())
    }

    /// Tells of what is attached where, and forgets devices that are no more.
    pub(super) fn settle(&mut self, devices: &[Device], attached: &BTreeSet<Attachment>) -> Result<(), Error> {
        let known = self.read()?;
        for device in devices {
            let native = |at: &Attachment| (at.index, at.hook, at.how) == (device.index, Hook::Xdp, How::Native);
            let sends = if attached.iter().any(native) { device::XDP } else { 0 };
            self.write(&known, device.index, origin(device.role) | sends)?;
        }
        let is_service =
            |index: u32| index == device::SERVICE_AT && devices.iter().any(|device| device.role == Role::Service);
        let is_there = |index: u32| is_service(index) || devices.iter().any(|device| device.index == index);
        for index in known.keys().filter(|index| !is_there(**index)) {
            self.map.map.remove(&Raw(*index)).map_err(|error| Error::map("write", map::DEVICES, &error))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<BTreeMap<u32, u32>, Error> {
        let mut known = BTreeMap::new();
        let read = self.map.each(|index, bits| {
            known.insert(*index, *bits);
        });
        read.map_err(|error| Error::map("read", map::DEVICES, &error))?;
        Ok(known)
    }

    fn write(&mut self, known: &BTreeMap<u32, u32>, index: u32, bits: u32) -> Result<(), Error> {
        if known.get(&index) == Some(&bits) {
            return Ok(());
        }
        self.map.map.insert(Raw(index), Raw(bits), 0).map_err(|error| Error::map("write", map::DEVICES, &error))
    }
}

const fn origin(role: Role) -> u32 {
    match role {
        Role::Nic | Role::Overlay | Role::Vlan => 0,
        // Processes of the node.
        Role::Pod | Role::Service | Role::Loopback => device::INSIDE,
    }
}
