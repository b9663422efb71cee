//! A bpffs where the node has none.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Error;
use super::pins::is_bpffs;

/// Mounts one at a folder, unless the folder is on one; whether there was need.
///
/// # Errors
/// The folder is not there, or mounting is not allowed: it takes `CAP_SYS_ADMIN`.
pub fn mount_bpffs(folder: &Path) -> Result<bool, Error> {
    if is_bpffs(folder) {
        return Ok(false);
    }
    let failed = |source| Error::file("mount a bpffs at", folder, source);
    let target = CString::new(folder.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // As systemd mounts it. Whoever may pin here decides where packets go, so it is for root alone.
    // SAFETY: all are strings that end with a zero and live until the call returns.
    let done = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if done == 0 { Ok(true) } else { Err(failed(io::Error::last_os_error())) }
}
