//! Names, addresses and protocols in words.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::ip::{Be16, Ip};
use lb_common::tables::Name;

/// What people call Service ports, by id.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a>(pub &'a BTreeMap<u32, Name>);

impl Names<'_> {
    /// Namespace, name of the Service, name of the port. A Service port without a name is called by its id.
    pub fn parts(&self, id: u32) -> (String, String, String) {
        match self.0.get(&id) {
            Some(name) => (text(&name.namespace), text(&name.service), text(&name.port)),
            None => (String::new(), format!("#{id}"), String::new()),
        }
    }

    /// `namespace/name:port`.
    pub fn full(&self, id: u32) -> String {
        let (namespace, service, port) = self.parts(id);
        let service = if namespace.is_empty() { service } else { format!("{namespace}/{service}") };
        if port.is_empty() { service } else { format!("{service}:{port}") }
    }

    /// Whether a Service port is the one, or one of those, that people ask for: `name`, `namespace/name`, either
    /// with `:port`.
    pub fn asked(&self, id: u32, asked: &str) -> bool {
        let (namespace, service, port) = self.parts(id);
        let (object, asked_port) = asked.split_once(':').map_or((asked, None), |(object, port)| (object, Some(port)));
        let object_fits = match object.split_once('/') {
            Some((asked_namespace, name)) => asked_namespace == namespace && name == service,
            None => object == service,
        };
        object_fits && asked_port.is_none_or(|asked| asked == port)
    }
}

fn text(padded: &[u8]) -> String {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    String::from_utf8_lossy(&padded[..end]).into_owned()
}

/// Address and port, as in a URL.
pub fn endpoint<A: Ip>(addr: A, port: Be16) -> String {
    let ip: IpAddr = addr.into();
    SocketAddr::new(ip, port.get()).to_string()
}

/// The name of an IP protocol.
pub fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::show) fn name(namespace: &str, service: &str, port: &str) -> Name {
        fn padded<const N: usize>(text: &str) -> [u8; N] {
            let mut bytes = [0; N];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            bytes
        }
        Name { namespace: padded(namespace), service: padded(service), port: padded(port) }
    }

    #[test]
    fn a_service_port_is_found_by_any_of_its_names() {
        let names = [(7, name("shop", "web", "http")), (8, name("shop", "db", ""))].into();
        let names = Names(&names);
        assert_eq!(names.full(7), "shop/web:http");
        assert_eq!(names.full(8), "shop/db");
        assert_eq!(names.full(9), "#9");
        for (asked, fits) in [
            ("web", true),
            ("shop/web", true),
            ("web:http", true),
            ("shop/web:http", true),
            ("other/web", false),
            ("web:https", false),
            ("we", false),
            ("", false),
        ] {
            assert_eq!(names.asked(7, asked), fits, "{asked}");
        }
    }
}
