//! Maps: made, and read and written one element at a time or in batches.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use aya::maps::MapType;
use lb_common::tables::Entry;

use super::{address, bpf, bpf_fd, raw};

// enum bpf_cmd of linux/bpf.h.
const MAP_CREATE: i64 = 0;
const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const MAP_LOOKUP_BATCH: i64 = 24;
const MAP_UPDATE_BATCH: i64 = 26;

/// Entries that one call reads. A batch must hold the longest chain of a hash table, so it grows where this is short.
const BATCH: usize = 4096;

#[repr(C)]
struct BatchAttr {
    cursor: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads all of a hash or an array map. An entry that comes or goes meanwhile may be missed, none is read twice.
///
/// # Errors
/// The keys or values are of another size, or the kernel cannot read this kind of map in batches.
pub(in crate::bpf) fn read_all<K: Entry, V: Entry>(
    map: BorrowedFd<'_>,
    (key_size, value_size, capacity): (u32, u32, u32),
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    if (key_size as usize, value_size as usize) != (size_of::<K>(), size_of::<V>()) {
        return Err(io::Error::other("its keys or values are of another size"));
    }
    // Arrays want room for a key, hash tables for 32 bits.
    let mut cursor = vec![0u64; size_of::<K>().div_ceil(8).max(1)];
    let mut next = cursor.clone();
    let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
    let (mut room, mut started) = (BATCH.min(capacity as usize), false);
    loop {
        keys.resize_with(room, zeroed);
        values.resize_with(room, zeroed);
        let mut attr = BatchAttr {
            cursor: if started { address(cursor.as_ptr()) } else { 0 },
            next: address(next.as_mut_ptr()),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map: raw(map),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values have room for count entries of the map's own sizes, both cursors for a key, and all
        // live until the call returns.
        let done = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 24 => {
                room *= 4;
                continue;
            }
            Err(error) => return Err(error),
        };
        let read = attr.count as usize;
        keys.iter().zip(&values).take(read).for_each(|(key, value)| each(key, value));
        if done || read == 0 {
            return Ok(());
        }
        started = true;
        std::mem::swap(&mut cursor, &mut next);
    }
}

/// Writes entries of a map, of which each key has its value at the same place. Entries that are there change.
///
/// # Errors
/// There is no room for one, or the kernel cannot write this kind of map in batches.
pub(in crate::bpf) fn write_all<K: Entry, V: Entry>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let count = u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?;
    if count == 0 {
        return Ok(());
    }
    let mut attr = BatchAttr {
        cursor: 0,
        next: 0,
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count,
        map: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: keys and values are at least as many as count says, of the map's own sizes, as the caller vouches, and live until
    // the call returns.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

#[repr(C)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Makes an array map, of this kind and with these `BPF_F_…`.
///
/// # Errors
/// There is no memory for it.
pub(in crate::bpf) fn create_array<V: Entry>(
    name: &str,
    max_entries: u32,
    (kind, flags): (MapType, u32),
) -> io::Result<OwnedFd> {
    let mut attr = MapCreateAttr {
        kind: kind as u32,
        key_size: 4,
        value_size: value_size::<V>(),
        max_entries,
        flags,
        inner_map: 0,
        numa_node: 0,
        name: [0; 16],
    };
    // The last byte stays zero.
    attr.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the attribute holds no pointers; the call makes a file descriptor.
    unsafe { bpf_fd(MAP_CREATE, &mut attr) }
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new<V>(map: BorrowedFd<'_>, key: &u32, value: *const V) -> Self {
        Self { map: raw(map), padding: 0, key: address(std::ptr::from_ref(key)), value: address(value), flags: 0 }
    }
}

/// Bytes of an entry, as the kernel counts them.
pub(in crate::bpf) fn value_size<V: Entry>() -> u32 {
    u32::try_from(size_of::<V>()).unwrap_or(u32::MAX)
}

/// Reads an element of an array, whose elements must be of this type.
///
/// # Errors
/// It is beyond the array; of an array of maps: there is none at this index.
pub(in crate::bpf) fn get<V: Entry>(array: BorrowedFd<'_>, index: u32) -> io::Result<V> {
    let mut value = zeroed::<V>();
    let mut attr = ElementAttr::new(array, &index, (&raw mut value).cast_const());
    // SAFETY: the key is 32 bits wide, as those of each array, the value as wide as the caller vouches; both live until
    // the call returns.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) }.map(|_| value)
}

/// Writes an element of an array, whose elements must be of this type.
///
/// # Errors
/// It is beyond the array.
pub(in crate::bpf) fn put<V: Entry>(array: BorrowedFd<'_>, index: u32, value: &V) -> io::Result<()> {
    let mut attr = ElementAttr::new(array, &index, std::ptr::from_ref(value));
    // SAFETY: as in `get`.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Puts maps into an array of maps, and waits until no program can see what was there before.
///
/// # Errors
/// A map is of another shape than the array wants.
pub(in crate::bpf) fn put_maps(array: BorrowedFd<'_>, maps: &[(u32, BorrowedFd<'_>)]) -> io::Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    let (keys, values): (Vec<u32>, Vec<u32>) = maps.iter().map(|(index, map)| (*index, raw(*map))).unzip();
    if write_all(array, &keys, &values).is_ok() {
        return Ok(());
    }
    // Before Linux 5.17: one after the other.
    keys.iter().zip(&values).try_for_each(|(index, map)| put(array, *index, map))
}

fn zeroed<T: Entry>() -> T {
    let () = T::SOLID;
    // SAFETY: an Entry is plain integers without padding, for which all zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
