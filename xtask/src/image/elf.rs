//! What an image must know of its binary: for which processor it is, and that it needs no loader and no library.
use object::{
    Architecture, Object as _,
    elf::PT_INTERP,
    read::elf::{ElfFile64, ProgramHeader as _},
};

/// The processor, as OCI names it (Go's GOARCH), of a binary that runs on its own; else the reason against it.
pub(super) fn architecture_of_static(binary: &[u8]) -> Result<&'static str, String> {
    let elf = ElfFile64::<object::Endianness>::parse(binary).map_err(|error| format!("it is no program ({error})"))?;
    let headers = elf.elf_program_headers();
    if headers.iter().any(|header| header.p_type(elf.endian()) == PT_INTERP) {
        return Err("it is linked dynamically, so it wants a loader and libraries".into());
    }
    match elf.architecture() {
        Architecture::X86_64 => Ok("amd64"),
        Architecture::Aarch64 => Ok("arm64"),
        other => Err(format!("Sluice has no image for {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_wants_a_loader_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(architecture_of_static(&own).unwrap_err().contains("dynamically"));
        assert!(architecture_of_static(b"#!/bin/sh\n").unwrap_err().contains("no program"));
    }
}
