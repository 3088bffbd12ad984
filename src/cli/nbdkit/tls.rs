//! Whether the clients of a server of nbdkit's command line encrypt, and with which certificates.

use std::path::PathBuf;

use rustix::process::geteuid;

use super::options::Options;
use super::warn;
use crate::frontends::nbd::{TlsMode, TlsSetup};
use crate::{Refusal, ResultExt, params};

/// Where nbdkit of the distributions looks for certificates, as root.
pub(super) const CERTIFICATES: &str = "/etc/pki/nbdkit";

/// Whether clients are to encrypt, if that was said.
///
/// # Errors
/// One sentence that names the option.
pub(super) fn mode_asked_for(options: &Options) -> Result<Option<TlsMode>, Refusal> {
    let mut asked = None;
    for text in &options.tls {
        asked = Some(match (text.as_str(), params::parse_bool(text)) {
            ("require", _) => TlsMode::Required,
            (_, Ok(true)) => TlsMode::Allowed,
            (_, Ok(false)) => TlsMode::Off,
            (_, Err(_unsaid)) => {
                return Err(Refusal::about(
                    format_args!("--tls `{text}`"),
                    "off, on or require is accepted",
                ));
            }
        });
    }
    if options.oldstyle && asked == Some(TlsMode::Required) {
        return Err(Refusal::about(
            "-o",
            "the protocol of old has no TLS, which --tls=require asks for",
        ));
    }
    Ok(asked)
}

/// Whether clients encrypt. Without a word about it they may where there are certificates.
///
/// # Errors
/// One sentence that names the option.
pub(super) fn setup(options: &Options) -> Result<TlsSetup, Refusal> {
    let mode = match mode_asked_for(options)? {
        Some(TlsMode::Off) => TlsMode::Off,
        Some(mode) => mode,
        None if options.tls_certificates.is_some() => TlsMode::Allowed,
        None if certificates().is_some() => TlsMode::Allowed,
        None => TlsMode::Off,
    };
    if mode == TlsMode::Off {
        if options.tls_certificates.is_some() || options.tls_verify_peer {
            warn("--tls-certificates and --tls-verify-peer have no effect: TLS is off");
        }
        return Ok(TlsSetup::default());
    }
    let folder = match &options.tls_certificates {
        Some(folder) => std::path::absolute(folder)
            .refuse(format_args!("--tls-certificates `{}`", folder.display()))?,
        None => certificates().ok_or_else(|| {
            Refusal::about("--tls", "the server needs a certificate").hint(
                "add --tls-certificates DIR, a folder with server-cert.pem and server-key.pem",
            )
        })?,
    };
    Ok(TlsSetup {
        mode,
        certificates: Some(folder),
        verify_peer: options.tls_verify_peer,
    })
}

/// The certificates that nbdkit would find by itself.
fn certificates() -> Option<PathBuf> {
    let folders = if geteuid().is_root() {
        vec![PathBuf::from(CERTIFICATES)]
    } else {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        vec![home.join(".pki/nbdkit"), home.join(".config/pki/nbdkit")]
    };
    let mut folders = folders.into_iter();
    folders.find(|folder| folder.join("server-cert.pem").exists())
}
