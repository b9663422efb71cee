//! The few calls of bpf(2) that aya does not have: links as plain file descriptors, and, in [`elements`], reading maps in
//! batches and maps in maps.
//!
//! aya attaches at TC by name only, cannot swap the program of a pinned cgroup link, and falls back silently to an XDP
//! attachment that dies with the process. With links as what they are to the kernel, one path serves all hooks.

mod elements;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub(super) use elements::{create_array, get, put, put_maps, read_all, value_size, write_all};

// enum bpf_cmd of linux/bpf.h.
const OBJ_PIN: i64 = 6;
const OBJ_GET: i64 = 7;
const PROG_TEST_RUN: i64 = 10;
const OBJ_GET_INFO_BY_FD: i64 = 15;
const LINK_CREATE: i64 = 28;
const LINK_UPDATE: i64 = 29;
const LINK_DETACH: i64 = 34;

/// `BPF_F_BEFORE` without a program to stand before: first of all.
const FIRST: u32 = 8;
/// `XDP_FLAGS_SKB_MODE`.
const SKB_MODE: u32 = 2;
/// `XDP_FLAGS_DRV_MODE`.
const DRV_MODE: u32 = 4;

fn attr_size<T>() -> i64 {
    i64::try_from(size_of::<T>()).unwrap_or(0)
}

/// # Safety
/// The attribute must be the one that the kernel expects for `command`, and its pointers valid for what it says.
unsafe fn bpf<T>(command: i64, attr: &mut T) -> io::Result<i64> {
    // SAFETY: attr is a live, exclusive reference of the size given; the caller vouches for what it holds.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), attr_size::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// As for [`bpf`], and `command` must be one that returns a new file descriptor.
unsafe fn bpf_fd<T>(command: i64, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller vouches.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A file descriptor that is borrowed is open, thus not negative.
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<()>().addr() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct ObjAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, program or link as a file.
///
/// # Errors
/// The file exists, or its folder is not on a bpffs.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), fd: raw(fd), flags: 0 };
    // SAFETY: the path ends with a zero and lives until the call returns.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is pinned as a file.
///
/// # Errors
/// There is no such file, or it is not a pin.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), fd: 0, flags: 0 };
    // SAFETY: the path ends with a zero and lives until the call returns, which makes a file descriptor.
    unsafe { bpf_fd(OBJ_GET, &mut attr) }
}

#[repr(C)]
struct RunAttr {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a program on a packet, once, and says how many bytes of `answer` the packet has then. (aya runs no program that is only
/// pinned.)
///
/// # Errors
/// The program is of a kind that does not run on packets, the kernel does not take this one, or its answer has no room.
pub(super) fn run(program: BorrowedFd<'_>, packet: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let (data_size_in, data_size_out) = (len(packet)?, len(answer)?);
    let (data_in, data_out) = (address(packet.as_ptr()), address(answer.as_mut_ptr()));
    let program = raw(program);
    let mut attr =
        RunAttr { program, result: 0, data_size_in, data_size_out, data_in, data_out, repeat: 1, duration: 0 };
    // SAFETY: both slices live until the call returns, and are as long as is said.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.data_size_out as usize)
}

/// Waits until no program runs any more that runs now: those that are swapped for others, and those that have read a map
/// before it was changed.
pub(super) fn wait_for_programs() {
    // MEMBARRIER_CMD_GLOBAL of linux/membarrier.h waits for all that read under RCU (kernel/sched/membarrier.c), as programs do.
    const GLOBAL: i64 = 1;
    // Where the kernel does not offer it (nohz_full), or a sandbox forbids it: programs run for some microseconds.
    const LONG: Duration = Duration::from_secs(1);
    // SAFETY: the call takes numbers only.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        thread::sleep(LONG);
    }
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// Ingress of a device, in its driver.
    XdpNative(u32),
    /// Ingress of a device, in the stack.
    XdpGeneric(u32),
    /// Ingress of a device at TC, first in order.
    TcxIngress(u32),
    /// Egress of a device at TC, first in order.
    TcxEgress(u32),
    /// A cgroup, and `enum bpf_attach_type`.
    Cgroup(BorrowedFd<'a>, u32),
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

/// Attaches a program. It stays for as long as the link is open or pinned.
///
/// # Errors
/// As the kernel says; `EOPNOTSUPP` and `EINVAL` also mean that it lacks the kind of link.
pub(super) fn attach(program: BorrowedFd<'_>, target: Target<'_>) -> io::Result<OwnedFd> {
    let (target, attach_type, flags) = match target {
        Target::XdpNative(index) => (index, 37, DRV_MODE),
        Target::XdpGeneric(index) => (index, 37, SKB_MODE),
        Target::TcxIngress(index) => (index, 46, FIRST),
        Target::TcxEgress(index) => (index, 47, FIRST),
        Target::Cgroup(cgroup, attach_type) => (raw(cgroup), attach_type, 0),
    };
    let mut attr =
        LinkCreateAttr { program: raw(program), target, attach_type, flags, relative: 0, padding: 0, revision: 0 };
    // SAFETY: the attribute holds no pointers; the call makes a file descriptor.
    unsafe { bpf_fd(LINK_CREATE, &mut attr) }
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// Swaps the program of a link in place: each packet meets the old one or the new one.
///
/// # Errors
/// The link is defunct (its device or cgroup is gone), or the programs are of different kinds.
pub(super) fn swap(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link: raw(link), program: raw(program), flags: 0, old: 0 };
    // SAFETY: the attribute holds no pointers.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link at once. Removing its pin alone does so, too, but at a time of the kernel's choice.
///
/// # Errors
/// It cannot be detached, or is no link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the attribute is the number of the link and holds no pointers.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// What the kernel says of a link: the start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    target: u64,
    attach_type: u32,
    tail: [u32; 7],
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// Where a link is attached: the index of the device, or the id of the cgroup; 0 where it is gone.
///
/// # Errors
/// It is not a link.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<u64> {
    const CGROUP: u32 = 3;
    let mut info = LinkInfo::default();
    let len = u32::try_from(size_of::<LinkInfo>()).unwrap_or(0);
    let mut attr = InfoAttr { fd: raw(link), len, info: address(&raw mut info) };
    // SAFETY: info lives until the call returns, and the kernel writes no more than the length given.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // The index of a device is 32 bits wide, then comes the attach type.
    Ok(if info.kind == CGROUP { info.target } else { info.target & u64::from(u32::MAX) })
}

/// Cookie of the network namespace of this process (`SO_NETNS_COOKIE`), as the programs see it.
///
/// # Errors
/// The kernel is older than 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut cookie, mut len) = (0u64, 8);
    let into = (&raw mut cookie).cast();
    // SAFETY: the socket is open, and the kernel writes at most the 8 bytes that cookie has.
    match unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, into, &raw mut len) }
    {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The name of a device of this network namespace.
pub fn device_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call demands.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let end = name.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&name[..end]).into_owned())
}
