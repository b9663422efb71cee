//! The certificate authority of one control plane, and the keys it makes. Nothing of it outlives the lab.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Both halves of a key, as PEM files.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
}

/// Signs what servers and clients of one control plane show to each other.
#[derive(Debug)]
pub(super) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which leaves its certificate in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = named("sluice-lab-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot sign the lab's authority")?;
        let authority = Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) };
        write(&authority.certificate(), &certificate.pem())?;
        Ok(authority)
    }

    /// The file that clients trust.
    pub(super) fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A server that is reached under these names and addresses.
    pub(super) fn server(&self, name: &str, reached_as: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(reached_as).context("not a name for a certificate")?;
        params.distinguished_name = named(name, None).distinguished_name;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, params)
    }

    /// A client: the API server takes the common name for the user's and the organisation for the group's.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, params)
    }

    /// A key without a certificate: the API server signs the tokens of ServiceAccounts with it.
    pub(super) fn key(&self, name: &str) -> Result<Key> {
        let pair = KeyPair::generate().context("cannot make a key")?;
        let [private, public] = ["key", "pub"].map(|kind| self.dir.join(format!("{name}.{kind}")));
        write(&private, &pair.serialize_pem())?;
        write(&public, &pair.public_key_pem())?;
        Ok(Key { private, public })
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let signed = params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {name}"))?;
        let file = name.replace(':', "-");
        let identity =
            Identity { certificate: self.dir.join(format!("{file}.crt")), key: self.dir.join(format!("{file}.key")) };
        write(&identity.certificate, &signed.pem())?;
        write(&identity.key, &key.serialize_pem())?;
        Ok(identity)
    }
}

fn named(name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    params
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
