//! nbdkit's options, by all their names, as getopt_long(3) takes them: in any order, clustered,
//! abbreviated, between and behind the plugin's parameters.

use std::path::PathBuf;

use clap::Parser;

/// What stands on a command line of nbdkit's. Options that take a word or a number may be given several times:
/// nbdkit refuses each one that is wrong, and the last one counts.
#[derive(Debug, Parser)]
#[command(
    name = "nbdkit",
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true,
    override_usage = "nbdkit [OPTIONS] python SCRIPT [KEY=VALUE]...\n       \
                      nbdkit [OPTIONS] PLUGIN [[KEY=]VALUE]...\n       \
                      nbdkit PLUGIN --dump-plugin\n       \
                      nbdkit --dump-config | --help | --version"
)]
pub(super) struct Options {
    /// `python`, the name of a plugin that ships with pydisk, or the path of a Python script
    pub(super) plugin: Option<String>,
    /// The script of `python`, then the plugin's parameters
    #[arg(value_name = "[KEY=]VALUE")]
    pub(super) words: Vec<String>,

    /// Listen on addresses of IPv4 only
    #[arg(short = '4', long, overrides_with = "ipv6_only")]
    pub(super) ipv4_only: bool,
    /// Listen on addresses of IPv6 only
    #[arg(short = '6', long, overrides_with = "ipv4_only")]
    pub(super) ipv6_only: bool,
    /// A debug flag; there are none here, which is said
    #[arg(short = 'D', long, value_name = "NAME.FLAG=N", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) debug: Vec<String>,
    /// Show what this program is and has, and end
    #[arg(long)]
    pub(super) dump_config: bool,
    /// Show what the plugin is and has, and end
    #[arg(long)]
    pub(super) dump_plugin: bool,
    /// End when the process that started this one does
    #[arg(long)]
    pub(super) exit_with_parent: bool,
    /// The export that URIs name
    #[arg(
        short = 'e',
        long = "exportname",
        aliases = ["export", "export-name"],
        value_name = "EXPORTNAME",
        allow_hyphen_values = true
    )]
    pub(super) export: Option<String>,
    /// A filter; there are none here, so each is refused
    #[arg(long, value_name = "FILTER", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) filter: Vec<String>,
    /// Do not go to the background
    #[arg(short = 'f', long, alias = "no-fork")]
    pub(super) foreground: bool,
    /// Become this group once the server listens
    #[arg(short = 'g', long, value_name = "GROUP", allow_hyphen_values = true)]
    pub(super) group: Option<String>,
    /// Show this, and what a plugin takes, and end
    #[arg(long)]
    pub(super) help: bool,
    /// The name or address to listen on [default: every address]
    #[arg(
        short = 'i',
        long = "ipaddr",
        alias = "ip-addr",
        value_name = "IPADDR",
        allow_hyphen_values = true
    )]
    pub(super) address: Option<String>,
    /// Look after TCP connections that say nothing, which is always done
    #[arg(long, alias = "keep-alive")]
    pub(super) keepalive: bool,
    /// Where messages go: stderr, syslog, null, default or an absolute path
    #[arg(long, value_name = "WHERE", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) log: Vec<String>,
    /// Show the names of the long options, and end
    #[arg(long)]
    pub(super) long_options: bool,
    /// Which flags of the handshake are offered, for tests of clients
    #[arg(long, value_name = "MASK", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) mask_handshake: Vec<String>,
    /// What this server is called, in messages, by the plugin and by `pydisk list`
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(super) name: Option<String>,
    /// Speak the protocol of today, as without it
    #[arg(
        short = 'n',
        long = "newstyle",
        alias = "new-style",
        overrides_with = "oldstyle"
    )]
    pub(super) newstyle: bool,
    /// Do not offer several connections, for tests of clients
    #[arg(long, alias = "no-meta-contexts")]
    pub(super) no_mc: bool,
    /// Do not offer structured replies, for tests of clients
    #[arg(long, alias = "no-structured-replies")]
    pub(super) no_sr: bool,
    /// Speak the protocol of old, without negotiation
    #[arg(
        short = 'o',
        long = "oldstyle",
        alias = "old-style",
        overrides_with = "newstyle"
    )]
    pub(super) oldstyle: bool,
    /// A file for the server's process number, written when clients can connect
    #[arg(
        short = 'P',
        long = "pidfile",
        alias = "pid-file",
        value_name = "PIDFILE",
        allow_hyphen_values = true
    )]
    pub(super) pid_file: Option<PathBuf>,
    /// The TCP or vsock port; 0 for a free one [default: 10809]
    #[arg(short = 'p', long, value_name = "PORT", allow_hyphen_values = true)]
    pub(super) port: Option<String>,
    /// Print the URI of the server
    #[arg(long, aliases = ["print-url", "show-uri", "show-url"])]
    pub(super) print_uri: bool,
    /// Open the disk for reading only
    #[arg(short = 'r', long = "readonly", alias = "read-only")]
    pub(super) read_only: bool,
    /// Run a shell command with $uri set, end with it and exit with its status
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(super) run: Option<String>,
    /// The SELinux label of the listening sockets
    #[arg(long, value_name = "LABEL", allow_hyphen_values = true)]
    pub(super) selinux_label: Option<String>,
    /// Show the names of the short options, and end
    #[arg(long)]
    pub(super) short_options: bool,
    /// Serve one client on standard input and output
    #[arg(short = 's', long = "single", alias = "stdin")]
    pub(super) single: bool,
    /// Keep the server's memory from being swapped
    #[arg(long)]
    pub(super) swap: bool,
    /// Requests of one client that are served at the same time [default: 16]
    #[arg(short = 't', long, value_name = "THREADS", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) threads: Vec<String>,
    /// How long a client may negotiate [default: 10]
    #[arg(
        long,
        alias = "time-out",
        value_name = "SECONDS",
        action = clap::ArgAction::Append, allow_hyphen_values = true
    )]
    pub(super) timeout: Vec<String>,
    /// Whether clients encrypt: off, on or require
    #[arg(long, value_name = "MODE", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub(super) tls: Vec<String>,
    /// Folder with server-cert.pem, server-key.pem and, to verify clients, ca-cert.pem
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub(super) tls_certificates: Option<PathBuf>,
    /// Which ciphers TLS may use, which cannot be chosen and is refused
    #[arg(long, value_name = "PRIORITY", allow_hyphen_values = true)]
    pub(super) tls_priority: Option<String>,
    /// Pre-shared keys, which are not supported and refused
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub(super) tls_psk: Option<PathBuf>,
    /// Accept only clients with a certificate that ca-cert.pem has signed
    #[arg(long)]
    pub(super) tls_verify_peer: bool,
    /// Listen on a Unix socket; - for a private one
    #[arg(
        short = 'U',
        long = "unix",
        value_name = "SOCKET",
        allow_hyphen_values = true
    )]
    pub(super) unix: Option<PathBuf>,
    /// Become this user once the server listens
    #[arg(short = 'u', long, value_name = "USER", allow_hyphen_values = true)]
    pub(super) user: Option<String>,
    /// Log what only helps to find a fault
    #[arg(short = 'v', long)]
    pub(super) verbose: bool,
    /// Show the version, and end
    #[arg(short = 'V', long)]
    pub(super) version: bool,
    /// Listen on a vsock port instead of a TCP port
    #[arg(long)]
    pub(super) vsock: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["nbdkit"].iter().chain(words))
    }

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn options_stand_anywhere_clustered_and_abbreviated() {
        let options = parsed(&[
            "-frU",
            "-",
            "python",
            "--exp",
            "a b",
            "disk.py",
            "-t4",
            "--pidf=/p",
            "k=v",
            "--",
            "-x",
        ])
        .unwrap();
        assert!(options.foreground && options.read_only);
        assert_eq!(options.unix, Some("-".into()));
        assert_eq!(options.export.as_deref(), Some("a b"));
        assert_eq!(options.threads, ["4"]);
        assert_eq!(options.pid_file, Some("/p".into()));
        assert_eq!(options.plugin.as_deref(), Some("python"));
        assert_eq!(options.words, ["disk.py", "k=v", "-x"]);
    }

    #[test]
    fn every_name_of_an_option_is_known() {
        for (names, given) in [
            (
                "--read-only --readonly -r",
                (|options| options.read_only) as fn(Options) -> bool,
            ),
            ("--foreground --no-fork -f", |options| options.foreground),
            ("--single --stdin -s", |options| options.single),
            ("--new-style --newstyle -n", |options| options.newstyle),
            ("--old-style --oldstyle -o", |options| options.oldstyle),
            ("--export=x --export-name=x --exportname=x -ex", |options| {
                options.export.is_some()
            }),
            ("--ip-addr=x --ipaddr=x -ix", |options| {
                options.address.is_some()
            }),
            ("--pid-file=x --pidfile=x -Px", |options| {
                options.pid_file.is_some()
            }),
            ("--version -V --vers", |options| options.version),
            ("--tls=on", |options| !options.tls.is_empty()),
            ("--keepalive --keep-alive", |options| options.keepalive),
            ("--no-mc --no-meta-contexts", |options| options.no_mc),
            ("--no-sr --no-structured-replies", |options| options.no_sr),
            (
                "--print-uri --print-url --show-uri --show-url --show",
                |options| options.print_uri,
            ),
            ("--timeout=1 --time-out=1 --time=1", |options| {
                !options.timeout.is_empty()
            }),
            ("--name=x --na=x", |options| options.name.is_some()),
        ] {
            for name in names.split(' ') {
                assert!(given(parsed(&[name]).unwrap()), "{name}");
            }
        }
    }

    #[test]
    fn the_last_one_counts() {
        let options = parsed(&["-4", "-6", "-o", "-n", "-p", "1", "-p", "2", "-f", "-f"]).unwrap();
        assert!(options.ipv6_only && !options.ipv4_only);
        assert!(options.newstyle && !options.oldstyle);
        assert_eq!(options.port.as_deref(), Some("2"));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for words in [
            &["--nosuch"][..],
            &["-p"],
            &["-f=1x", "-Q"],
            &["--run"],
            &["--no-s=1"],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }
}
