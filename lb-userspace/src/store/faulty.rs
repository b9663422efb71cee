//! Maps that fail on purpose.

use std::io;

use lb_common::mem::Image;

use super::{Store, StoreError};
use crate::plan::Op;

/// Another store, of whose writes one fails.
#[derive(Debug)]
pub struct FaultyStore<S> {
    /// The store that takes the other writes.
    pub inner: S,
    left: Option<usize>,
    full: bool,
}

impl<S> FaultyStore<S> {
    /// Lets `good` writes pass, fails the next, and is well again after it.
    pub fn new(inner: S, good: usize) -> Self {
        Self { inner, left: Some(good), full: false }
    }

    /// As [`FaultyStore::new`], but the failure is that of a full map.
    pub fn full(inner: S, good: usize) -> Self {
        Self { full: true, ..Self::new(inner, good) }
    }

    /// Whether the failure has happened.
    pub fn failed(&self) -> bool {
        self.left.is_none()
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn read(&mut self) -> Result<Image, StoreError> {
        self.inner.read()
    }

    fn write(&mut self, op: &Op) -> Result<(), StoreError> {
        match &mut self.left {
            Some(0) => {
                self.left = None;
                Err(match self.full {
                    true => StoreError::full(op),
                    false => StoreError::of(op, io::Error::other("it fails on purpose")),
                })
            }
            Some(left) => {
                *left -= 1;
                self.inner.write(op)
            }
            None => self.inner.write(op),
        }
    }
}
