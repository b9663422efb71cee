//! What this node tells load balancers of Services with `externalTrafficPolicy: Local`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::ip::Family;

use super::Compiler;
use crate::endpoints::{self, Here};
use crate::model::{ObjectName, Service};
use crate::state::State;

/// What this node tells load balancers, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthChecks {
    /// The node's addresses at which they ask: those of NodePorts.
    pub addresses: BTreeSet<IpAddr>,
    /// By Service.
    pub services: BTreeMap<ObjectName, HealthCheck>,
}

/// What this node tells load balancers of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port at which they ask.
    pub port: u16,
    /// How many endpoints are ready here, of IPv4 and of IPv6; none of a family that the Service does not have.
    pub endpoints: [Option<usize>; 2],
}

impl HealthCheck {
    /// How many endpoints are ready here, for those who ask at an address of a family.
    pub fn of(&self, family: Family) -> Option<usize> {
        match family {
            Family::V4 => self.endpoints[0],
            Family::V6 => self.endpoints[1],
        }
    }
}

impl Compiler {
    /// What this node tells load balancers. The same `Arc` until something changes.
    pub fn health_checks(&self) -> Arc<HealthChecks> {
        self.checks.clone()
    }

    /// Follows a Service, none where it is not programmed.
    pub(super) fn check_health(&mut self, name: &ObjectName, service: Option<&Service>, state: &State, here: Here<'_>) {
        let check = service.and_then(|service| {
            let of = |family| {
                let has = service.cluster_ips.iter().any(|ip| ip.is_ipv6() == (family == Family::V6));
                has.then(|| endpoints::ready_here(state.slices(name), family, here))
            };
            Some(HealthCheck { port: service.health_check_port?, endpoints: [Family::V4, Family::V6].map(of) })
        });
        if self.checks.services.get(name) != check.as_ref() {
            let services = &mut Arc::make_mut(&mut self.checks).services;
            match check {
                Some(check) => drop(services.insert(name.clone(), check)),
                None => drop(services.remove(name)),
            }
        }
    }

    /// Follows the node's addresses.
    pub(super) fn check_health_at(&mut self, addresses: &BTreeSet<IpAddr>) {
        if self.checks.addresses != *addresses {
            Arc::make_mut(&mut self.checks).addresses.clone_from(addresses);
        }
    }
}
