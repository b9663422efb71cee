//! Who we are, whom to trust, and where the API servers are.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// When the kernel begins to ask whether the other side of a silent connection is still there, how often it asks, and
/// how many times: so a host that is gone is found out before [`SILENCE`] ends.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// Longest time that what was sent may stay unconfirmed (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// How to get to the API servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Who we are and whom to trust; none for the service account that a pod has.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of API servers, in place of the one that is configured.
    pub servers: Vec<String>,
}

/// Why there is no way to any API server, whatever these do.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A kubeconfig.
    #[error("cannot use the kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// A pod's service account.
    #[error("no --kubeconfig, and this is no pod with a service account: {0}")]
    NoPod(#[source] kube::config::InClusterError),
    /// An address.
    #[error("--api-server {0:?} is not an address such as https://192.0.2.1:6443")]
    Address(String),
    /// A certificate, a key or a token.
    #[error("cannot use the credentials for {server}: {text}")]
    Credentials {
        /// The server.
        server: String,
        /// Why not.
        text: String,
    },
}

impl Access {
    /// One configuration a server.
    pub(super) async fn configs(&self) -> Result<Vec<Config>, AccessError> {
        let config = self.config().await?;
        let mut configs = Vec::new();
        for server in &self.servers {
            let url: http::Uri = server.parse().map_err(|_| AccessError::Address(server.clone()))?;
            if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
                return Err(AccessError::Address(server.clone()));
            }
            let mut config = config.clone();
            config.cluster_url = url;
            configs.push(config);
        }
        if configs.is_empty() {
            configs.push(config);
        }
        Ok(configs)
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let Some(path) = &self.kubeconfig else {
            let found = match self.servers.is_empty() {
                true => Config::incluster_env(),
                // Its address will be replaced.
                false => Config::incluster_dns(),
            };
            return found.map_err(AccessError::NoPod);
        };
        let fail = |source| AccessError::Kubeconfig { path: path.clone(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(fail)
    }
}

/// A client of one server. kube's own has no keep-alive, and tries for long where another server could answer.
pub(super) fn client(config: &Config) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    let (idle, interval, retries) = KEEPALIVE;
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_interval(Some(interval));
    connector.set_keepalive_retries(Some(retries));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}
