//! What the kernel's type information (BTF) says of its own structures and functions: the two or three facts that programs are
//! told. It is read through once, without a table of all types: crates that make one take a tenth of a second, at each start.
//!
//! The format is that of Documentation/bpf/btf.rst.

use std::fs;
use std::ops::Range;

use lb_common::summed::Place;

/// Where the kernel tells of its types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// How programs come by the kind of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summed {
    /// The BTF id of the function that gives the kernel's own socket buffer.
    pub(super) function: u32,
    /// Where it tells the kind.
    pub(super) place: Place,
}

impl Summed {
    /// As this kernel has it: `None` where it was built without BTF, or is older than the function (Linux 6.2).
    pub(super) fn of_this_kernel() -> Option<Self> {
        let bytes = fs::read(KERNEL).ok()?;
        let types = Types::of(&bytes)?;
        let function = types.find(FUNC, "bpf_cast_to_kern_ctx")?;
        let bit = types.bit(types.find(STRUCT, "sk_buff")?, "ip_summed")?;
        Some(Self { function, place: Place::of(bit) })
    }
}

// Kinds of types.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// What all types begin with.
const HEAD: usize = 12;
/// A member of a structure: its name, its type, where it is.
const MEMBER: usize = 12;
/// In the place of a member, where some members are bit fields: the bit, below the length of the field.
const BIT: u32 = 0xff_ffff;

/// Types, one behind the other.
struct Types<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where each begins, by its id less one.
    starts: Vec<usize>,
}

/// One of them.
struct Type {
    name: u32,
    kind: u32,
    /// Whether some members are bit fields.
    has_fields: bool,
    /// Where its members are.
    members: Range<usize>,
}

impl<'a> Types<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let word = |at| Some(number(bytes, at)? as usize);
        if word(0)? & 0xffff != 0xeb9f {
            return None;
        }
        let header = word(4)?;
        // Where each part is behind the header, and its length.
        let part = |at| bytes.get(header + word(at)?..)?.get(..word(at + 4)?);
        let (types, names) = (part(8)?, part(16)?);
        let (mut this, mut at) = (Self { types, names, starts: Vec::new() }, 0);
        while at < types.len() {
            this.starts.push(at);
            at = this.read(at)?.members.end;
        }
        Some(this)
    }

    /// The type that begins there.
    fn read(&self, at: usize) -> Option<Type> {
        let (name, info) = (number(self.types, at)?, number(self.types, at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
        let len = match kind {
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION => count * MEMBER,
            DATASEC | ENUM64 => count * 12,
            ENUM | FUNC_PROTO => count * 8,
            _ => 0,
        };
        let members = at + HEAD..at + HEAD + len;
        (members.end <= self.types.len()).then_some(Type { name, kind, has_fields: info >> 31 != 0, members })
    }

    /// Whether this is the name there.
    fn is_named(&self, at: u32, name: &str) -> bool {
        let rest = self.names.get(at as usize..).and_then(|names| names.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The id of the type of this kind and name.
    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it =
            |at: &usize| self.read(*at).is_some_and(|found| found.kind == kind && self.is_named(found.name, name));
        let index = self.starts.iter().position(is_it)?;
        u32::try_from(index + 1).ok()
    }

    /// The first bit of a member of a structure, counted from its beginning, also of one in a structure without a name in it.
    fn bit(&self, id: u32, member: &str) -> Option<u32> {
        let found = self.read(*self.starts.get(id.checked_sub(1)? as usize)?)?;
        if !matches!(found.kind, STRUCT | UNION) {
            return None;
        }
        found.members.step_by(MEMBER).find_map(|at| {
            let [name, of, place] = [0, 4, 8].map(|field| number(self.types, at + field).unwrap_or(0));
            let bit = if found.has_fields { place & BIT } else { place };
            if self.is_named(name, member) {
                return Some(bit);
            }
            if self.is_named(name, "") { Some(bit + self.bit(of, member)?) } else { None }
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Structures that are the same wherever Linux runs, since programs see them (include/uapi).
    #[test]
    fn members_are_where_everybody_knows_them() {
        let Ok(bytes) = fs::read(KERNEL) else {
            return eprintln!("SKIP members_are_where_everybody_knows_them: this kernel tells of no types");
        };
        let types = Types::of(&bytes).unwrap();
        let bit = |name, member| types.bit(types.find(STRUCT, name)?, member);
        assert_eq!(bit("sockaddr_in", "sin_port"), Some(16));
        // In a union without a name, and behind bit fields.
        assert_eq!(bit("iphdr", "daddr"), Some(8 * 16));
        // A field of one bit.
        assert_eq!(bit("tcphdr", "syn"), Some(8 * 13 + 1));
        assert_eq!(bit("tcphdr", "nothing"), None);
        assert_eq!(bit("nothing", "syn"), None);
        assert_eq!(types.bit(0, "syn"), None);
        assert!(Summed::of_this_kernel().is_some_and(|summed| summed.function != 0));
    }

    #[test]
    fn damaged_information_is_none() {
        let mut bytes = Vec::new();
        for word in [0x0001_eb9f_u32, 24, 0, 24, 24, 6] {
            bytes.extend(word.to_ne_bytes());
        }
        // A structure of one member, `a`, called `abc`.
        for word in [1, STRUCT << 24 | 1, 4, 3, 0, 7] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"\0abc\0\0");
        let types = Types::of(&bytes).unwrap();
        assert_eq!((types.find(STRUCT, "abc"), types.bit(1, "c")), (Some(1), Some(7)));
        assert_eq!((types.find(UNION, "abc"), types.find(STRUCT, "ab")), (None, None));
        for len in 0..bytes.len() {
            assert!(Types::of(&bytes[..len]).is_none(), "{len}");
        }
        // More members than there are.
        bytes[28] = 2;
        assert!(Types::of(&bytes).is_none());
    }
}
