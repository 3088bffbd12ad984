//! Random command lines for pydisk by the name of nbdkit and for nbdkit itself: where one is taken, the
//! other one takes it, and the status is the same.

use support::nbdkit::Nbdkit;
use support::say;

/// Words that go on a command line together. Where the two differ on purpose (`docs/nbdkit.md`) they
/// are not here: `-u` of a name that is none, `-t=4`.
const OPTIONS: &str = "-r|--readonly|--read|-v|-f|--no-fork|--fore|-n|-o|--new|--old|--no-sr|--no|--n|\
    -4|-6|--ipv4|-t 4|-t4|--threads=2|--threads x|-t -1|-e a|-e EMPTY|--export=b|--exp c|-P pid|\
    --pid-file=pid|-D a.b=1|-D a|-D .b=1|--debug=x.y=3|-D a.b=x|-D nbdkit.backend.datapath=0|\
    --log=stderr|--log=null|--log nope|--mask-handshake=1|--mask-handshake 0x3|--mask=0|--mask x|\
    --tls=off|--tls=0|--tls=no|--tls bad|--tls=require|--selinux-label=x|--exit-with-parent|-rf|-rfv|\
    -fx|--vsock|-s|--single|--stdin|-i localhost|-i 127.0.0.1|-u root|-g root|-u 0|--user=root|\
    --un -|-U-|-p 70001x|--port=|--verbose|-r=1|-f1|--run=exit_5|--nosuch|-Q|-z|--filter=nosuch";

/// What may stand behind the script.
const PARAMETERS: &str = "k=v|k.x-y_=1=2|bare|1k=v|=v|k=|K=v|_k=v|k v=1|-";

#[test]
fn random_command_lines_have_the_same_status() {
    let both = Nbdkit::both();
    let [ours, theirs] = both.as_slice() else {
        return;
    };
    let seed = std::env::var("PYDISK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..1 << 32));
    say(&format!("random command lines: PYDISK_SEED={seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..40 {
        let line = line(&mut random);
        let [one, other] = [ours, theirs].map(|nbdkit| {
            let words = line.iter().map(|word| match word.as_str() {
                "DISK" => nbdkit.plugin.clone(),
                "EMPTY" => String::new(),
                word => word.replace("exit_", "exit "),
            });
            nbdkit.run(words)
        });
        assert_eq!(
            one.code, other.code,
            "PYDISK_SEED={seed} {line:?}: {one:?} {other:?}"
        );
    }
    assert_eq!(ours.home.attachments(), [""; 0]);
}

/// A command line that ends by itself if it is right. A parameter stays behind the script.
fn line(random: &mut fastrand::Rng) -> Vec<String> {
    let options: Vec<&str> = OPTIONS.split('|').collect();
    let parameters: Vec<&str> = PARAMETERS.split('|').collect();
    let mut parts = vec!["-U -", "--run exit_3"];
    for _ in 0..random.usize(1..4) {
        parts.push(random.choice(&options).unwrap());
    }
    random.shuffle(&mut parts);
    let mut plugin = vec!["python DISK"];
    if random.bool() {
        plugin.push(random.choice(&parameters).unwrap());
    }
    let at = random.usize(..=parts.len());
    parts.splice(at..at, plugin);
    let words = parts.into_iter().flat_map(|part| part.split(' '));
    words.map(str::to_owned).collect()
}
