//! Names as the maps hold them.

use lb_common::tables::Name;

use crate::model::ObjectName;

/// The name of a Service port; `None` where it does not fit, which Kubernetes never lets happen.
pub(super) fn of(service: &ObjectName, port: &str) -> Option<Name> {
    Some(Name { namespace: padded(&service.namespace)?, service: padded(&service.name)?, port: padded(port)? })
}

fn padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_or_is_refused() {
        let longest = ObjectName::new("n".repeat(63), "s".repeat(63));
        assert!(of(&longest, &"p".repeat(63)).is_some());
        assert_eq!(of(&longest, &"p".repeat(64)), None);
        assert_eq!(of(&ObjectName::new("n", "s".repeat(64)), ""), None);
    }
}
