//! Mutual TLS between the two sides of `ctl migrate`, as between the proxies of two virt-handlers (contract/migration.md 3.3).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto, version};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cli::ctl::error::CtlError;

/// The files of one side, PEM.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Files {
    /// The authorities that may have signed the other side's certificate.
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "key"])]
    ca: Option<PathBuf>,
    /// This side's certificate, and what leads to its authority.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    certificate: Option<PathBuf>,
    /// The certificate's private key.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "certificate"])]
    key: Option<PathBuf>,
    /// Send the guest's memory in clear; everybody who reaches the port commands the target.
    #[arg(long, conflicts_with_all = ["ca", "certificate", "key"])]
    without_tls: bool,
}

/// What one side shows and whom it trusts.
struct Identity {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Files {
    /// For who dials; `None` in clear.
    pub(super) fn connector(&self) -> Result<Option<TlsConnector>, CtlError> {
        let Some(Identity { roots, chain, key }) = self.identity()? else { return Ok(None) };
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }

    /// For who listens; `None` in clear.
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, CtlError> {
        let Some(Identity { roots, chain, key }) = self.identity()? else { return Ok(None) };
        let provider = Arc::new(crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(clients.build().map_err(unusable)?)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn identity(&self) -> Result<Option<Identity>, CtlError> {
        let (ca, certificate, key) = match (&self.ca, &self.certificate, &self.key) {
            (Some(ca), Some(certificate), Some(key)) => (ca, certificate, key),
            (_, _, _) if self.without_tls => return Ok(None),
            (_, _, _) => {
                return Err(CtlError::Usage(
                    "--listen and --connect need --ca, --certificate and --key, or --without-tls".to_owned(),
                ));
            }
        };
        let mut roots = RootCertStore::empty();
        if let (0, _) = roots.add_parsable_certificates(certificates(ca)?) {
            return Err(named(ca, "no certificate that can be used"));
        }
        let chain = certificates(certificate)?;
        // The text of an error must not show any of the key.
        let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| named(key, "no private key in PEM"))?;
        Ok(Some(Identity { roots, chain, key }))
    }
}

fn unusable(error: impl std::fmt::Display) -> CtlError {
    CtlError::Usage(format!("--ca, --certificate and --key do not work together: {error}"))
}

fn named(path: &Path, why: impl std::fmt::Display) -> CtlError {
    CtlError::Usage(format!("{}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, CtlError> {
    std::fs::read(path).map_err(|error| named(path, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CtlError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(named(path, "no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(named(path, error)),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    /// The files of two sides whose certificates are of one authority, and of a third whose certificate is not.
    pub(crate) fn files(folder: &Path) -> [Files; 3] {
        let authority = || {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (ours, theirs) = (authority(), authority());
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, ours.pem()).unwrap();
        let side = |name: &str, authority: &CertifiedIssuer<'_, KeyPair>| {
            let key = KeyPair::generate().unwrap();
            let names = ["localhost".to_owned()];
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, authority).unwrap();
            let path = |what: &str| folder.join(format!("{name}.{what}"));
            std::fs::write(path("crt"), certificate.pem()).unwrap();
            std::fs::write(path("key"), key.serialize_pem()).unwrap();
            Files { ca: Some(ca.clone()), certificate: Some(path("crt")), key: Some(path("key")), without_tls: false }
        };
        [side("target", &ours), side("source", &ours), side("stranger", &theirs)]
    }

    /// Without TLS.
    pub(crate) fn in_clear() -> Files {
        Files { ca: None, certificate: None, key: None, without_tls: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let [good, other, _] = testing::files(folder.path());
        assert!(good.acceptor().unwrap().is_some() && good.connector().unwrap().is_some());
        assert!(testing::in_clear().acceptor().unwrap().is_none());
        let neither = Files { without_tls: false, ..testing::in_clear() };
        assert!(neither.connector().err().unwrap().to_string().contains("--without-tls"));
        let text = folder.path().join("text");
        std::fs::write(&text, "x").unwrap();
        let missing = folder.path().join("missing");
        for (files, expected) in [
            (Files { ca: Some(text.clone()), ..good.clone() }, "text: no certificate in PEM"),
            (Files { certificate: Some(missing), ..good.clone() }, "missing: No such file"),
            (Files { key: Some(text), ..good.clone() }, "text: no private key in PEM"),
            (Files { key: other.key, ..good.clone() }, "do not work together: "),
        ] {
            let error = files.acceptor().err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
