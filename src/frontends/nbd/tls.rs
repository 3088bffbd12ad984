//! Whether clients may or must encrypt, and who the server says it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_cert::der::Decode;
use x509_cert::time::Validity;

use super::config::{TlsMode, TlsSetup};
use crate::Refusal;

/// Whether a connection is encrypted.
#[derive(Debug)]
pub(super) enum Tls {
    /// Never: `STARTTLS` is refused.
    Off,
    /// If the client asks for it.
    Allowed(Identity),
    /// Nothing else is answered before.
    Required(Identity),
}

impl Tls {
    /// What the user wants, with certificates read.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub(super) fn load(setup: &TlsSetup) -> Result<Self, Refusal> {
        if setup.mode == TlsMode::Off {
            return Ok(Self::Off);
        }
        let Some(folder) = &setup.certificates else {
            return Err(
                Refusal::about("TLS", "no folder with certificates is named").hint(
                    "--tls-certificates FOLDER, with server-cert.pem and server-key.pem in it",
                ),
            );
        };
        let identity = Identity::load(folder, setup.verify_peer)?;
        Ok(match setup.mode {
            TlsMode::Required => Self::Required(identity),
            TlsMode::Off | TlsMode::Allowed => Self::Allowed(identity),
        })
    }
}

/// The certificate of the server, its key, and whose certificates it accepts from clients.
#[derive(Clone, Debug)]
pub(super) struct Identity(Arc<ServerConfig>);

impl Identity {
    fn load(folder: &Path, verify_peer: bool) -> Result<Self, Refusal> {
        let certificate = folder.join("server-cert.pem");
        let key = folder.join("server-key.pem");
        let chain: Vec<CertificateDer<'static>> = all(&certificate)?;
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unread(&key, &error))?;
        let dated = times(&certificate, &chain, SystemTime::now());
        for doubt in dated.into_iter().chain(open_to_all(&key)) {
            log::warn!("{doubt}");
        }
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Refusal::about("TLS", error))?;
        let builder = if verify_peer {
            builder.with_client_cert_verifier(verifier(folder)?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(chain, secret)
            .map_err(|error| refused(&certificate, &error))?;
        // Connections are few and long: nobody resumes one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// The server's side of one connection.
    pub(super) fn session(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.0))
    }
}

/// Accepts the clients whose certificate the authority in the folder has signed.
fn verifier(folder: &Path) -> Result<Arc<dyn ClientCertVerifier>, Refusal> {
    let authority = folder.join("ca-cert.pem");
    let mut roots = RootCertStore::empty();
    let certificates = all(&authority)?;
    for doubt in times(&authority, &certificates, SystemTime::now()) {
        log::warn!("{doubt}");
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| refused(&authority, &error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let revoked = folder.join("ca-crl.pem");
    let builder = if revoked.exists() {
        let lists: Vec<CertificateRevocationListDer<'static>> = all(&revoked)?;
        builder.with_crls(lists)
    } else {
        builder
    };
    builder.build().map_err(|error| refused(&authority, &error))
}

/// The certificates in `file` whose time is not now. They are used all the same: whether that matters is for
/// whoever is shown them to say.
fn times(file: &Path, certificates: &[CertificateDer<'_>], now: SystemTime) -> Vec<String> {
    let doubt = |certificate: &CertificateDer<'_>| {
        let found = match x509_cert::Certificate::from_der(certificate) {
            Ok(found) => found.tbs_certificate,
            Err(error) => return Some(format!("the dates in it cannot be read: {error}")),
        };
        let Validity {
            not_before,
            not_after,
        } = found.validity;
        let subject = found.subject;
        if not_after.to_system_time() < now {
            return Some(format!(
                "the certificate of `{subject}` has expired on {not_after}"
            ));
        }
        (not_before.to_system_time() > now)
            .then(|| format!("the certificate of `{subject}` is not valid before {not_before}"))
    };
    let doubts = certificates.iter().filter_map(doubt);
    doubts
        .map(|doubt| format!("TLS: `{}`: {doubt}", file.display()))
        .collect()
}

/// A key that is a secret no more: everybody may read the file, and look into all folders above it.
fn open_to_all(key: &Path) -> Option<String> {
    let mode = |path: &Path| path.metadata().map_or(0, |found| found.mode());
    let real = key.canonicalize().ok()?;
    let mut folders = real.ancestors().skip(1);
    let open = mode(&real) & 0o004 != 0 && folders.all(|folder| mode(folder) & 0o001 != 0);
    open.then(|| {
        format!(
            "TLS: `{}`: every user of this machine may read the key; `chmod 600` keeps it secret",
            key.display()
        )
    })
}

/// All that a file has of one kind, which is at least one.
fn all<T: PemObject>(file: &Path) -> Result<Vec<T>, Refusal> {
    let found: Result<Vec<T>, pem::Error> = T::pem_file_iter(file).and_then(Iterator::collect);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unread(file, &pem::Error::NoItemsFound)),
        Err(error) => Err(unread(file, &error)),
    }
}

fn unread(file: &Path, error: &pem::Error) -> Refusal {
    match error {
        pem::Error::Io(error) => {
            Refusal::caused("TLS", error).during(format_args!("`{}`", file.display()))
        }
        pem::Error::NoItemsFound => refused(file, &"what is needed is not in this file"),
        other => refused(file, other),
    }
}

fn refused(file: &Path, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::about("TLS", format_args!("`{}`: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use crate::frontends::nbd::testing::certificates;

    fn refusal(folder: Option<&Path>, verify_peer: bool) -> String {
        let setup = TlsSetup {
            mode: TlsMode::Allowed,
            certificates: folder.map(Path::to_owned),
            verify_peer,
        };
        Tls::load(&setup).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let put = |name: &str, from: &str| {
            fs::copy(certificates().join(from), path.join(name)).unwrap();
        };
        assert!(refusal(None, false).contains("--tls-certificates"));
        let why = refusal(Some(path), false);
        assert!(why.contains("server-cert.pem`: No such file"), "{why}");
        fs::write(path.join("server-cert.pem"), "nothing").unwrap();
        let why = refusal(Some(path), false);
        assert!(why.contains("server-cert.pem`: what is needed"), "{why}");
        put("server-cert.pem", "server-cert.pem");
        let why = refusal(Some(path), false);
        assert!(why.contains("server-key.pem`: No such file"), "{why}");
        put("server-key.pem", "client-key.pem");
        let why = refusal(Some(path), false);
        assert!(why.contains("server-cert.pem`:"), "{why}");
        put("server-key.pem", "server-key.pem");
        let why = refusal(Some(path), true);
        assert!(why.contains("ca-cert.pem`: No such file"), "{why}");
        put("ca-cert.pem", "server-key.pem");
        let why = refusal(Some(path), true);
        assert!(why.contains("ca-cert.pem`: what is needed"), "{why}");
    }

    #[test]
    fn the_mode_decides() {
        let load = |mode| {
            let setup = TlsSetup {
                mode,
                certificates: Some(certificates()),
                verify_peer: true,
            };
            Tls::load(&setup).unwrap()
        };
        assert!(matches!(load(TlsMode::Off), Tls::Off));
        assert!(matches!(load(TlsMode::Allowed), Tls::Allowed(_)));
        assert!(matches!(load(TlsMode::Required), Tls::Required(_)));
        assert!(matches!(Tls::load(&TlsSetup::default()), Ok(Tls::Off)));
    }

    #[test]
    fn a_certificate_out_of_its_time_is_named() {
        let file = certificates().join("server-cert.pem");
        let chain: Vec<CertificateDer<'static>> = all(&file).unwrap();
        let year = Duration::from_hours(365 * 24);
        let after_1970 = |years| times(&file, &chain, SystemTime::UNIX_EPOCH + year * years);
        // It was made in 2026, for a hundred years.
        assert_eq!(after_1970(80), [""; 0]);
        for (years, words) in [
            (200, "has expired on 2126-"),
            (30, "is not valid before 2026-"),
        ] {
            let doubts = after_1970(years);
            assert_eq!(doubts.len(), 1);
            assert!(doubts[0].starts_with(&format!("TLS: `{}`: ", file.display())));
            assert!(doubts[0].contains(words), "{}", doubts[0]);
        }
        let odd = times(
            &file,
            &[CertificateDer::from(vec![0; 8])],
            SystemTime::now(),
        );
        assert!(odd[0].contains("cannot be read"), "{}", odd[0]);
    }

    #[test]
    fn a_key_that_everybody_may_read_is_named() {
        // Where everybody may look, unlike a folder of tempfile's.
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let key = place.path().join("server-key.pem");
        fs::write(&key, "").unwrap();
        let open = |folder, file| {
            let set = |path: &Path, mode| {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            };
            set(&key, file);
            set(place.path(), folder);
            open_to_all(&key).is_some()
        };
        assert!(open(0o755, 0o644) && open(0o711, 0o604));
        assert!(!open(0o755, 0o640) && !open(0o750, 0o644));
        assert!(open_to_all(&place.path().join("none")).is_none());
    }
}
