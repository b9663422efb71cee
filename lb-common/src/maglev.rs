//! Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4):
//! slots of backend ids, each backend nearly equally often, and few slots moving when one backend goes.
//!
//! A backend's order of preference comes from its address and port alone. So every node makes the same table from
//! the same set, and picks the same backend for a flow that it never saw.

use crate::hash;
use crate::ip::{Be16, Ip};

/// Slots per backend, at the least: no backend gets over 1 % more than its share.
const SLOTS_PER_BACKEND: u32 = 100;

/// How many slots a table for `backends` has: a prime of at least 100 a backend; 1 for one, 0 for none.
///
/// Sets of nearly the same size have tables of the same length: only then do few slots move when a backend comes or goes,
/// and nodes that have heard of it agree with those that have not. A table is a quarter larger for that at the most.
pub fn table_len(backends: u32) -> u32 {
    match backends {
        0 | 1 => backends,
        n => next_prime(size_class(n).saturating_mul(SLOTS_PER_BACKEND)),
    }
}

/// Rounded up to three significant bits: …, 6, 7, 8, 10, 12, 14, 16, 20, …
const fn size_class(n: u32) -> u32 {
    let shift = (u32::BITS - n.leading_zeros()).saturating_sub(3);
    ((n.saturating_sub(1) >> shift) + 1) << shift
}

fn next_prime(from: u32) -> u32 {
    (from..=u32::MAX).find(|n| is_prime(*n)).unwrap_or(from)
}

fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| u64::from(n) % d != 0)
}

/// A backend on its way through its order of preference.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    id: u32,
    next: u32,
    skip: u32,
}

impl Candidate {
    /// A backend for a table of `len` slots, see [`table_len`].
    pub fn new<A: Ip>(id: u32, addr: &A, port: Be16, len: u32) -> Self {
        let identity = hash::address(addr, port);
        let len = len.max(2);
        Self {
            id,
            next: hash::seeded(0x6d61_676c, identity) % len,
            skip: hash::seeded(0x6576_3136, identity) % (len - 1) + 1,
        }
    }
}

/// Fills `slots` with the ids of `candidates`, which must be made for its length and not hold id 0. The order of the
/// candidates decides ties: sort them by address and port.
pub fn fill(candidates: &mut [Candidate], slots: &mut [u32]) {
    slots.fill(0);
    if let [only] = candidates {
        slots.fill(only.id);
        return;
    }
    let len = slots.len() as u32;
    let mut empty = slots.len();
    while empty > 0 && !candidates.is_empty() {
        for candidate in &mut *candidates {
            let slot = loop {
                let at = candidate.next;
                // Both are below `len`, so this is the remainder without a division.
                candidate.next = match at + candidate.skip {
                    next if next >= len => next - len,
                    next => next,
                };
                match slots.get_mut(at as usize) {
                    Some(slot) if *slot == 0 => break slot,
                    _ => {}
                }
            };
            *slot = candidate.id;
            empty -= 1;
            if empty == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::ip::V4;

    fn table(hosts: &[u8]) -> Vec<u32> {
        let len = table_len(hosts.len() as u32);
        let mut candidates: Vec<_> = hosts
            .iter()
            .map(|h| Candidate::new(u32::from(*h), &V4::from(Ipv4Addr::new(10, 0, 0, *h)), Be16::new(80), len))
            .collect();
        let mut slots = vec![0; len as usize];
        fill(&mut candidates, &mut slots);
        slots
    }

    fn shares(slots: &[u32]) -> BTreeMap<u32, usize> {
        slots.iter().fold(BTreeMap::new(), |mut shares, id| {
            *shares.entry(*id).or_default() += 1;
            shares
        })
    }

    #[test]
    fn sizes() {
        assert_eq!([0, 1, 2, 10, 1000].map(table_len), [0, 1, 211, 1009, 102_407]);
    }

    #[test]
    fn sizes_of_sets_are_rounded_up_by_a_quarter_at_most() {
        let classes: Vec<_> = (1..22).map(size_class).collect();
        assert_eq!(classes, [1, 2, 3, 4, 5, 6, 7, 8, 10, 10, 12, 12, 14, 14, 16, 16, 20, 20, 20, 20, 24]);
        for n in 1..100_000 {
            let class = size_class(n);
            assert!((n..=n + n / 4).contains(&class) && size_class(class) == class, "{n}: {class}");
        }
    }

    #[test]
    fn every_backend_gets_its_share_within_one_percent() {
        let hosts: Vec<u8> = (1..=10).collect();
        let shares = shares(&table(&hosts));
        assert_eq!(shares.len(), 10);
        for (id, n) in shares {
            assert!((100..=102).contains(&n), "backend {id} has {n} of 1009 slots");
        }
    }

    #[test]
    fn one_backend_less_moves_few_of_the_others_slots() {
        for n in [10, 12, 100] {
            let hosts: Vec<u8> = (1..=n).collect();
            let (full, without) = (table(&hosts), table(&hosts[..hosts.len() - 1]));
            assert_eq!(full.len(), without.len());
            let moved = full.iter().zip(&without).filter(|(a, b)| **a != u32::from(n) && a != b).count();
            assert!(moved < full.len() / 10, "{moved} of {} slots of backends that stayed have moved", full.len());
        }
    }

    #[test]
    fn a_single_backend_has_one_slot_and_none_has_none() {
        assert_eq!(table(&[7]), [7]);
        assert_eq!(table(&[]), []);
    }
}
