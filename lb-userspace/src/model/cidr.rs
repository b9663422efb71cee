//! A range of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// Its first address.
    pub first: IpAddr,
    /// How many leading bits all of its addresses share.
    pub len: u8,
}

impl Cidr {
    /// The range of this length that an address is in; none where it has no so many bits.
    pub fn around(ip: IpAddr, len: u8) -> Option<Self> {
        let first: IpAddr = match ip {
            IpAddr::V4(ip) => {
                let host = 32_u32.checked_sub(len.into())?;
                let mask = u32::MAX.checked_shl(host).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let host = 128_u32.checked_sub(len.into())?;
                let mask = u128::MAX.checked_shl(host).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        };
        Some(Self { first, len })
    }

    /// Whether it has this address.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.first.is_ipv6() == ip.is_ipv6() && Self::around(ip, self.len) == Some(self)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.len)
    }
}

/// A text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a range of addresses, such as 10.96.0.0/16")]
pub struct NoCidr;

impl FromStr for Cidr {
    type Err = NoCidr;

    fn from_str(text: &str) -> Result<Self, NoCidr> {
        let (first, len) = text.split_once('/').ok_or(NoCidr)?;
        let (first, len): (IpAddr, u8) = (first.parse().map_err(|_| NoCidr)?, len.parse().map_err(|_| NoCidr)?);
        // No bit may be set beyond the prefix: Kubernetes refuses such ranges, too.
        Self::around(first, len).filter(|range| range.first == first).ok_or(NoCidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_no_bits_beyond_its_prefix() {
        for (text, fits) in [
            ("10.96.0.0/16", true),
            ("10.96.0.1/32", true),
            ("0.0.0.0/0", true),
            ("fd00:96::/112", true),
            ("::/0", true),
            ("::1/128", true),
            ("10.96.0.1/16", false),
            ("fd00::1/64", false),
            ("10.96.0.0/33", false),
            ("::/129", false),
            ("::/255", false),
            ("10.96.0.0", false),
            ("10.96.0.0/", false),
            ("web/16", false),
        ] {
            assert_eq!(text.parse::<Cidr>().is_ok(), fits, "{text}");
        }
    }
    #[test]
    fn a_range_has_the_addresses_that_share_its_prefix() {
        for (range, ip, has) in [
            ("10.96.0.0/16", "10.96.255.255", true),
            ("10.96.0.0/16", "10.97.0.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.0", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::", false),
            ("::/0", "fe00::", true),
            ("::/0", "0.0.0.0", false),
        ] {
            assert_eq!(range.parse::<Cidr>().unwrap().contains(ip.parse().unwrap()), has, "{range} {ip}");
        }
    }
}
