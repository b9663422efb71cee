//! The kinds of checksums in socket buffers. The kernel's own buffer (`struct sk_buff`) tells the kind, that of the context
//! (`struct __sk_buff`) does not; a helper that shows it by what it does costs as much as all the rest of a packet. So programs at
//! TC read the kernel's own, where its type information (BTF) says that it is.

/// A device has summed up the bytes of the packet, and that sum changes with them (`CHECKSUM_COMPLETE`).
pub const COMPLETE: u8 = 2;

/// A device is still to complete the checksum: till then it is the sum of the pseudo header (`CHECKSUM_PARTIAL`).
pub const PARTIAL: u8 = 3;

/// Where `sk_buff.ip_summed` is: the bit from the structure's beginning on, as BTF counts them on little-endian machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    /// It is at this bit.
    pub const fn of(bit: u32) -> Self {
        Self(bit as u64)
    }

    /// The number that programs are told; 0 for a place that is not known.
    pub const fn word(this: Option<Self>) -> u64 {
        match this {
            Some(Self(bit)) => bit,
            None => 0,
        }
    }

    /// The inverse of [`Place::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self(word)) }
    }

    /// The byte of the structure that holds the two bits.
    #[inline(always)]
    pub const fn byte(self) -> usize {
        (self.0 / 8) as usize
    }

    /// The kind, by that byte.
    #[inline(always)]
    pub const fn kind(self, byte: u8) -> u8 {
        byte >> (self.0 % 8) & 3
    }
}

/// The number that [`UNTOLD`] loads.
pub const MARK: i32 = 0x5ca1_ab1e;

/// An instruction that stands in for [`call`], whose number only the running kernel knows: `r0 = MARK`. Where it stays, the
/// place is not known, and the verifier does not come to it.
pub const UNTOLD: u64 = 0xb7 | (MARK as u64) << 32;

/// The instruction that gives in `r0` the kernel's own buffer for a context in `r1`: a call of the kernel's function
/// (`BPF_PSEUDO_KFUNC_CALL`) `bpf_cast_to_kern_ctx`, of which this is the BTF id. The kernel makes a move of it (Linux 6.2).
pub const fn call(function: u32) -> u64 {
    0x2085 | (function as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_where_the_place_says() {
        // Behind packet type (3 bits) and two flags, as in Linux 6.18.
        let place = Place::of(8 * 128 + 5);
        assert_eq!((place.byte(), place.kind(0b1110_0111), place.kind(0b0100_0000)), (128, PARTIAL, COMPLETE));
        assert_eq!(Place::from_word(Place::word(Some(place))), Some(place));
        assert_eq!(Place::from_word(Place::word(None)), None);
    }

    #[test]
    fn instructions_are_those_of_the_instruction_set() {
        // RFC 9669: code, registers (source above target), offset, number.
        let [low, high] = [MARK as u16, (MARK >> 16) as u16].map(u16::to_le_bytes);
        assert_eq!(UNTOLD.to_le_bytes(), [0xb7, 0, 0, 0, low[0], low[1], high[0], high[1]]);
        assert_eq!(call(0x1234_5678).to_le_bytes(), [0x85, 0x20, 0, 0, 0x78, 0x56, 0x34, 0x12]);
    }
}
