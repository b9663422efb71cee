//! The number by which programs know whether the ways out of the node may have changed.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use lb_common::tables::map;

use super::dense::Words;
use super::{Error, Pins, maps};

/// The map `EPOCH`, mapped into our memory: to change it costs nothing.
#[derive(Debug)]
pub struct Epoch(Words);

impl Epoch {
    /// Maps what is pinned.
    ///
    /// # Errors
    /// The map is not there.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let data = maps::data(&pins.maps(), map::EPOCH)?;
        let words = Words::map(data.fd().as_fd(), 1).map_err(|error| Error::map("map", map::EPOCH, &error))?;
        Ok(Self(words))
    }

    /// From now on no next hop holds that was kept before.
    pub fn advance(&self) {
        if let Some(word) = self.0.word(0) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }
}
