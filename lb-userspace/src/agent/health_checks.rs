//! Tells load balancers of Services with `externalTrafficPolicy: Local` whether this node has endpoints, at each Service's
//! `healthCheckNodePort`, as kube-proxy 1.37 does (`pkg/proxy/healthcheck/service_health.go`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Json, Router};
use lb_common::ip::Family;
use serde_json::json;
use tokio::sync::watch;

use crate::compile::HealthChecks;
use crate::http::Server;
use crate::model::ObjectName;
use crate::watch::{Problem, Reason};

/// How many endpoints are behind this node: what a load balancer may weigh it by.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The servers for health checks of Services.
pub(super) struct HealthCheckServers {
    /// Whether the maps and programs of this node are well.
    healthy: Arc<dyn Fn() -> bool + Send + Sync>,
    checks: watch::Sender<Arc<HealthChecks>>,
    servers: BTreeMap<(ObjectName, SocketAddr), Server>,
}

impl HealthCheckServers {
    pub(super) fn new(healthy: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { healthy: Arc::new(healthy), checks: watch::Sender::default(), servers: BTreeMap::new() }
    }

    /// Follows what is to be told, and where.
    pub(super) fn sync(&mut self, checks: &Arc<HealthChecks>) {
        self.checks.send_replace(checks.clone());
        let mut wanted = BTreeMap::new();
        for (name, check) in &checks.services {
            for ip in &checks.addresses {
                let family = if ip.is_ipv6() { Family::V6 } else { Family::V4 };
                if check.of(family).is_some() {
                    wanted.insert((name.clone(), SocketAddr::new(*ip, check.port)), family);
                }
            }
        }
        self.servers.retain(|at, _| wanted.contains_key(at));
        for (at, family) in wanted {
            if !self.servers.contains_key(&at) {
                let (name, address) = &at;
                let page = self.page(name.clone(), family);
                let server = Server::start(format!("health of Service {name}"), *address, page);
                self.servers.insert(at, server);
            }
        }
    }

    /// What is in the way of those that do not serve.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.servers.iter().filter_map(|((name, _), server)| {
            let text = format!("spec.healthCheckNodePort: {}", server.problem()?);
            Some(Problem::at("Service", name.clone(), Reason::NotListening, text))
        })
    }

    /// Every path is the same page.
    fn page(&self, name: ObjectName, family: Family) -> Router {
        let (checks, healthy) = (self.checks.subscribe(), self.healthy.clone());
        Router::new().fallback(async move || {
            let endpoints = checks.borrow().services.get(&name).and_then(|check| check.of(family)).unwrap_or(0);
            let healthy = healthy();
            let code = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let headers = [(header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()), (WEIGHT, endpoints.to_string())];
            let service = json!({"namespace": &*name.namespace, "name": &*name.name});
            let body = json!({"service": service, "localEndpoints": endpoints, "serviceProxyHealthy": healthy});
            (code, headers, Json(body)).into_response()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;
    use crate::compile::HealthCheck;

    const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    /// The whole answer, as it comes.
    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /any/path HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Status, weight and body, once somebody answers.
    async fn told(address: SocketAddr) -> (u16, String, serde_json::Value) {
        let start = Instant::now();
        let answer = loop {
            match ask(address).await {
                Ok(answer) => break answer,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{address}: {error}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let header = |name: &str| {
            let found =
                head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.unwrap_or_else(|| panic!("no {name} in {head}")).1.to_owned()
        };
        assert_eq!(
            (header("content-type").as_str(), header("x-content-type-options").as_str()),
            ("application/json", "nosniff")
        );
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, header("x-load-balancing-endpoint-weight"), serde_json::from_str(body).unwrap())
    }

    async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !done().await {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A port that is free at both loopback addresses, for as long as nobody else takes it.
    async fn free_port() -> u16 {
        loop {
            let v4 = TcpListener::bind((LOOPBACKS[0], 0)).await.unwrap();
            let port = v4.local_addr().unwrap().port();
            if TcpListener::bind((LOOPBACKS[1], port)).await.is_ok() {
                return port;
            }
        }
    }

    fn checks(services: &[(&str, u16, [Option<usize>; 2])]) -> Arc<HealthChecks> {
        let service = |(name, port, endpoints): &(&str, u16, _)| {
            (ObjectName::new("ns", *name), HealthCheck { port: *port, endpoints: *endpoints })
        };
        Arc::new(HealthChecks { addresses: LOOPBACKS.into(), services: services.iter().map(service).collect() })
    }

    #[tokio::test]
    async fn a_load_balancer_hears_of_the_endpoints_of_its_family_and_of_the_nodes_health() {
        let healthy = Arc::new(AtomicBool::new(true));
        let asked = healthy.clone();
        let mut servers = HealthCheckServers::new(move || asked.load(Ordering::Relaxed));
        let port = free_port().await;
        let [v4, v6] = LOOPBACKS.map(|ip| SocketAddr::new(ip, port));
        let body = |endpoints: usize, healthy: bool| json!({"service": {"namespace": "ns", "name": "a"}, "localEndpoints": endpoints, "serviceProxyHealthy": healthy});
        servers.sync(&checks(&[("a", port, [Some(2), Some(0)])]));
        assert_eq!(told(v4).await, (200, "2".into(), body(2, true)));
        assert_eq!(told(v6).await, (503, "0".into(), body(0, true)));
        // The same servers go on with other numbers.
        servers.sync(&checks(&[("a", port, [Some(0), Some(1)])]));
        assert_eq!(told(v4).await, (503, "0".into(), body(0, true)));
        assert_eq!(told(v6).await, (200, "1".into(), body(1, true)));
        healthy.store(false, Ordering::Relaxed);
        assert_eq!(told(v6).await, (503, "1".into(), body(1, false)));
        // A family that the Service no longer has, and then no Service at all.
        servers.sync(&checks(&[("a", port, [None, Some(1)])]));
        until("nobody listens at IPv4", async || ask(v4).await.is_err()).await;
        assert_eq!(told(v6).await.0, 503);
        servers.sync(&checks(&[]));
        until("nobody listens at IPv6", async || ask(v6).await.is_err()).await;
    }

    #[tokio::test]
    async fn a_port_moves_with_its_service_and_a_taken_one_is_told_and_had_later() {
        let mut servers = HealthCheckServers::new(|| true);
        let [first, second] = [free_port().await, free_port().await];
        let at = |port| SocketAddr::new(LOOPBACKS[0], port);
        let taken = TcpListener::bind(at(second)).await.unwrap();
        servers.sync(&checks(&[("a", first, [Some(1), None])]));
        assert_eq!(told(at(first)).await.0, 200);
        servers.sync(&checks(&[("a", second, [Some(1), None])]));
        until("it says why", async || servers.problems().next().is_some()).await;
        let problem = servers.problems().next().unwrap();
        assert_eq!(problem.reason, Reason::NotListening);
        let text = problem.to_string();
        assert!(
            text.starts_with(&format!("Service ns/a: spec.healthCheckNodePort: cannot listen at {}: ", at(second))),
            "{text}"
        );
        until("the first port is free", async || ask(at(first)).await.is_err()).await;
        // Another Service gets the first port meanwhile.
        servers.sync(&checks(&[("a", second, [Some(1), None]), ("b", first, [Some(3), None])]));
        assert_eq!(told(at(first)).await.1, "3");
        drop(taken);
        until("it has it", async || ask(at(second)).await.is_ok()).await;
        assert_eq!((told(at(second)).await.0, servers.problems().count()), (200, 0));
    }
}
