//! What the lab needs of the machine: root, BPF, network namespaces, bpffs, cgroup2. Looks, and changes nothing.
use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{failure::not_possible, process, workspace};

use super::found;

/// The bits of `CapEff` (include/uapi/linux/capability.h).
const CAPABILITIES: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// The first thing that lacks ends it with one sentence.
pub(crate) fn check() -> Result<()> {
    need(is_root(), || {
        "Sluice's tests and demo load programs into the kernel and make network namespaces: run this as root.".into()
    })?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (bit, name) in CAPABILITIES {
        need(has_capability(&status, *bit), || {
            format!(
                "Root lacks {name} here, as in a container without --privileged; Sluice needs it to load BPF programs."
            )
        })?;
    }
    // This file is there exactly if the kernel was built with CONFIG_BPF_SYSCALL.
    need(Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists(), || {
        "This kernel has no bpf() system call (CONFIG_BPF_SYSCALL), so no BPF program can be loaded.".into()
    })?;
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    need(jit.trim() != "0", || {
        "This kernel's BPF JIT is off: switch it on with `sysctl net.core.bpf_jit_enable=1`.".into()
    })?;
    need(Path::new("/sys/kernel/btf/vmlinux").exists(), || {
        "This kernel has no type information (CONFIG_DEBUG_INFO_BTF): /sys/kernel/btf/vmlinux is not there.".into()
    })?;
    need(succeeds(&["--net", "true"]), || {
        "This machine allows no new network namespace, of which the lab is made.".into()
    })?;
    need(can_mount_bpffs(), || {
        "The BPF file system cannot be mounted here; Sluice pins its maps and links in one.".into()
    })?;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = cgroup2_mount(&mounts);
    need(cgroup.is_some(), || {
        "No cgroup2 file system is mounted; Sluice's socket hooks attach to one (`mount -t cgroup2 none /sys/fs/cgroup`).".into()
    })?;
    found("root", "with the capabilities to load BPF programs");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    found(
        "kernel",
        &format!(
            "{}, BPF with JIT and BTF, network namespaces, bpffs, cgroup2 at {}",
            release.trim(),
            cgroup.unwrap_or_default()
        ),
    );
    Ok(())
}

fn need(there: bool, sentence: impl FnOnce() -> String) -> Result<()> {
    if there { Ok(()) } else { Err(not_possible(sentence())) }
}

/// Whether this process has the effective user id 0.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_uid(&status) == Some(0)
}

/// The second number of the line `Uid: real effective saved filesystem`.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn has_capability(status: &str, bit: u32) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set >> bit & 1 == 1)
}

/// Mounts one in a mount namespace of its own, which ends with the command: nothing is left behind.
fn can_mount_bpffs() -> bool {
    let point = workspace::target_dir().join("bpffs-probe");
    if fs::create_dir_all(&point).is_err() {
        return false;
    }
    let mounted = succeeds(&["--mount", "mount", "-t", "bpf", "bpf", &point.to_string_lossy()]);
    let _ = fs::remove_dir(&point);
    mounted
}

/// Runs `unshare` with these arguments.
fn succeeds(arguments: &[&str]) -> bool {
    process::ask(Command::new("unshare").args(arguments)).is_some()
}

/// The mount point of the first cgroup2 in a text like /proc/self/mounts.
fn cgroup2_mount(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == "cgroup2").then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\txtask\nUid:\t1000\t0\t0\t0\nCapEff:\t0000000000001000\n";

    #[test]
    fn the_effective_user_counts_not_the_real_one() {
        assert_eq!(effective_uid(STATUS), Some(0));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

    #[test]
    fn a_capability_is_one_bit() {
        assert!(has_capability(STATUS, 12));
        assert!(!has_capability(STATUS, 21));
        assert!(!has_capability("", 12));
    }

    #[test]
    fn the_mount_point_of_cgroup2_is_found_among_others() {
        let mounts = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }
}
