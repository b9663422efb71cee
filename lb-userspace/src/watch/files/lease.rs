//! Asks the kernel whether somebody writes in a file (`F_SETLEASE`, fcntl(2)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Which signal tells a lease's holder that somebody wants the file (`include/uapi/asm-generic/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// Whether somebody has the file open to write. If not, whoever comes to write waits until this file is closed, so
/// that it is read as one piece. Says no where the kernel does not tell: of another owner's file to a program without
/// CAP_LEASE, and in file systems that have no leases.
pub(super) fn has_writer(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // Without this it would be SIGIO, which kills; SIGURG does nothing by itself.
    // SAFETY: fcntl with a number as argument touches no memory, and `fd` is open.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } != 0 {
        return false;
    }
    // SAFETY: the same.
    let leased = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) };
    leased != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_that_comes_while_it_is_read_waits_and_nobody_dies() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let reader = File::open(&path).unwrap();
        assert!(!has_writer(&reader));
        let (done, waiting) = channel();
        let target = path.to_path_buf();
        let writer = std::thread::spawn(move || {
            File::options().append(true).open(target).unwrap();
            done.send(()).unwrap();
        });
        assert!(waiting.recv_timeout(Duration::from_millis(50)).is_err(), "it came in");
        drop(reader);
        waiting.recv_timeout(Duration::from_secs(5)).unwrap();
        writer.join().unwrap();
    }
}
