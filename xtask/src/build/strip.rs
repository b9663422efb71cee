//! Takes out of an eBPF object what only a debugger reads: four fifths of it. The linker needs debug information to make the
//! types of it (BTF) that the kernel asks for, and leaves both.

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};
use object::elf;

/// The sections of DWARF, and those of their relocations.
const DEBUG: [&[u8]; 2] = [b".debug_", b".rel.debug_"];

/// The object without debug information.
pub(super) fn without_debug_information(object: &[u8]) -> Result<Vec<u8>> {
    let mut built = Builder::read(object).context("the linker's output is no object")?;
    for section in &mut built.sections {
        section.delete = DEBUG.iter().any(|prefix| section.name.starts_with(prefix));
    }
    // Sections have symbols of their own.
    built.delete_orphan_symbols();
    // LLVM has one table of names for symbols and sections.
    if !built.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = built.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = elf::SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    built.write(&mut stripped).context("cannot write the object without its debug information")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use object::{Endianness, Object as _, ObjectSection as _};

    use super::*;

    #[test]
    fn what_the_loader_reads_stays_as_it_was() {
        let mut made = Builder::new(Endianness::Little, true);
        made.header.e_type = elf::ET_REL;
        made.header.e_machine = elf::EM_BPF;
        for (name, kind) in [
            (&b".text"[..], elf::SHT_PROGBITS),
            (b".BTF", elf::SHT_PROGBITS),
            (b".debug_info", elf::SHT_PROGBITS),
            (b".rel.debug_info", elf::SHT_PROGBITS),
            (b".shstrtab", elf::SHT_STRTAB),
        ] {
            let section = made.sections.add();
            section.name = name.into();
            section.sh_type = kind;
            section.data = match name {
                b".shstrtab" => SectionData::SectionString,
                _ => SectionData::Data(name.to_vec().into()),
            };
        }
        let mut object = Vec::new();
        made.write(&mut object).unwrap();
        let stripped = without_debug_information(&object).unwrap();
        let read = object::File::parse(&*stripped).unwrap();
        let sections: Vec<_> =
            read.sections().map(|section| (section.name().unwrap(), section.data().unwrap())).collect();
        assert_eq!(sections[..2], [(".text", &b".text"[..]), (".BTF", b".BTF")]);
        assert_eq!(sections.len(), 3, "names of sections: {sections:?}");
    }
}
