//! Ends that do not ask whether a disk is used: what its users have written is stored first, whatever
//! lies between them and the disk; what cannot be stored is said, alike on every front end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use support::device::{Kind, Mount, run};
use support::home::{Home, end, first_line, signal, until};
use support::{on_each, on_each_device};

/// A disk in a file that a parameter names. Once there is a file `broken` beside the script, nothing can
/// be written any more; while there is one beside the disk's file that ends with `.hang`, a flush hangs.
const PLUGIN: &str = r#"
import io, os, time

API_VERSION = 2
SIZE = 32 << 20
place = os.path.dirname(os.path.abspath(__file__))

def config(key, value):
    global path
    path = value

def broken():
    if os.path.exists(os.path.join(place, "broken")):
        raise OSError("the medium is worn out")

def open(readonly):
    h = io.open(path, "r+b", buffering=0)
    return h

def close(h): h.close()
def get_size(h): return os.fstat(h.fileno()).st_size
def pread(h, buf, offset, flags): os.preadv(h.fileno(), [buf], offset)
def pwrite(h, buf, offset, flags):
    broken()
    os.pwrite(h.fileno(), buf, offset)
def flush(h, flags):
    broken()
    while os.path.exists(path + ".hang"): time.sleep(0.05)
"#;

/// Written to a file, and found on the disk.
const TEXT: &str = "what was written before the end of the disk";
const COPIES: usize = 2000;

struct Place {
    home: Home,
    plugin: String,
    kind: Kind,
}

impl Place {
    fn new(kind: Kind) -> Self {
        // What is stored in time on most machines is to be stored on the slowest.
        let home = Home::patient(3);
        let plugin = home.script("disk.py", PLUGIN).display().to_string();
        Self { home, plugin, kind }
    }

    /// A file for a disk of this size.
    fn backing(&self, path: &Path, size: u64) -> String {
        let file = fs::File::create(path).unwrap();
        file.set_len(size).unwrap();
        format!("path={}", path.display())
    }

    fn target(&self) -> String {
        self.kind.fresh_target(&self.home.path(""))
    }

    /// A fresh disk of this name, and where it is.
    fn attach(&self, name: &str) -> (PathBuf, PathBuf) {
        let backing = self.home.path(&format!("backing-{name}"));
        let parameter = self.backing(&backing, 32 << 20);
        (self.attach_at(name, &parameter), backing)
    }

    #[track_caller]
    fn attach_at(&self, name: &str, parameter: &str) -> PathBuf {
        let target = self.target();
        let said = self
            .home
            .run(["attach", &self.plugin, &target, parameter, "--name", name]);
        assert_eq!(said.code, 0, "{said:?}");
        target.into()
    }

    /// All of it is on the disk by now.
    #[track_caller]
    fn is_stored(&self, backing: &Path, what: &str) {
        let found = run("grep", ["-a", "-c", "-F", TEXT, backing.to_str().unwrap()]);
        let found: usize = found.trim().parse().unwrap();
        // A line may lie across two blocks that do not follow each other.
        let kind = self.kind.word();
        assert!(found >= COPIES - 10, "{kind}, {what}: found {found} times");
    }
}

/// A filesystem on a device that was just written to.
fn written(device: &Path, at: PathBuf) -> Mount {
    let device = device.to_str().unwrap();
    run("mkfs.ext4", ["-q", device]);
    let mount = Mount::new(device, at);
    run("sync", ["-f".as_ref(), mount.at.as_os_str()]);
    fill(&mount.at);
    mount
}

fn fill(at: &Path) {
    fs::write(at.join("file"), format!("{TEXT}\n").repeat(COPIES)).unwrap();
}

/// Takes its mount away and waits until nobody knows of it: the device of the next one may be the same.
fn unmounted(mount: Mount) {
    run("umount", [&mount.at]);
    drop(mount);
}

fn a_mounted_filesystem_is_stored_by_every_end(kind: Kind) {
    let place = Place::new(kind);
    let home = &place.home;
    // Who ends it, and how, is not for a kernel to decide.
    let ways: &[_] = match kind {
        Kind::Loop => &["one", "all", "agent", "worker", "both"],
        _ => &["one", "worker"],
    };
    for &way in ways {
        let (device, backing) = place.attach("disk");
        let mount = written(&device, home.path("mounted"));
        let (agent, worker) = (
            home.pid("disk", "agent_pid"),
            home.pid("disk", "worker_pid"),
        );
        match way {
            "one" | "all" => {
                let which = if way == "one" { "disk" } else { "--all" };
                let said = home.run(["detach", "--force", which]);
                assert_eq!((said.code, &*said.stderr), (0, ""), "{}", kind.word());
            }
            _ => {
                let all = [("agent", agent), ("worker", worker)];
                for (who, pid) in all {
                    if way == who || way == "both" {
                        signal(pid, Signal::TERM);
                    }
                }
                until("the disk is gone", || home.attachments().is_empty());
            }
        }
        place.is_stored(&backing, way);
        assert!(
            !home.path("state/.failed").exists(),
            "{}: {way}",
            kind.word()
        );
        unmounted(mount);
    }
}

on_each_device!(a_mounted_filesystem_is_stored_by_every_end);

/// Attach in the foreground, with a command or without.
fn start(place: &Place, command: Option<&str>) -> (Child, String, PathBuf) {
    let backing = place.home.path("backing");
    let parameter = place.backing(&backing, 32 << 20);
    let target = place.target();
    let mut args = vec!["attach", &place.plugin, &target, &parameter];
    match command {
        Some(command) => args.extend(["--run", command]),
        None => args.push("--foreground"),
    }
    let child = place.home.start(&args);
    (child, target, backing)
}

fn a_foreground_disk_and_a_command_end_with_their_own_status(kind: Kind) {
    let place = Place::new(kind);
    let home = &place.home;
    let (mut child, target, backing) = start(&place, None);
    assert_eq!(first_line(&mut child), target);
    let mount = written(target.as_ref(), home.path("mounted"));
    signal(i32::try_from(child.id()).unwrap(), Signal::TERM);
    assert_eq!(end(&mut child).code(), Some(0), "{}", kind.word());
    place.is_stored(&backing, "foreground");
    unmounted(mount);

    let at = home.path("left");
    fs::create_dir(&at).unwrap();
    let command = format!(
        "mkfs.ext4 -q $device && mount $device {at} && sync -f {at} && \
         yes '{TEXT}' | head -{COPIES} > {at}/file && exit 7",
        at = at.display()
    );
    let (mut child, _, backing) = start(&place, Some(&command));
    assert_eq!(end(&mut child).code(), Some(7), "{}", kind.word());
    place.is_stored(&backing, "--run");
    run("umount", [&at]);
}

on_each_device!(a_foreground_disk_and_a_command_end_with_their_own_status);

/// Unmounted, with a file still open.
fn what_nobody_sees_mounted_is_stored(kind: Kind) {
    let place = Place::new(kind);
    let (device, backing) = place.attach("disk");
    let mount = written(&device, place.home.path("mounted"));
    let open = fs::File::create(mount.at.join("open")).unwrap();
    run("umount", ["-l".as_ref(), mount.at.as_os_str()]);
    let said = place.home.run(["detach", "--force", "disk"]);
    assert_eq!((said.code, &*said.stderr), (0, ""), "{}", kind.word());
    place.is_stored(&backing, "lazily");
    drop(open);
}

on_each_device!(what_nobody_sees_mounted_is_stored);

/// `losetup` on a disk until dropped.
struct Looped(String);

impl Looped {
    fn on(disk: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(disk)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Some(Self(device))
            }
            why => {
                support::say(&format!("skipped: losetup: {why:?}"));
                None
            }
        }
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["-d", &self.0]).output());
    }
}

fn a_filesystem_on_a_loop_device_above_is_stored(kind: Kind) {
    let place = Place::new(kind);
    let (disk, backing) = place.attach("disk");
    let Some(above) = Looped::on(&disk) else {
        return;
    };
    let mount = written(above.0.as_ref(), place.home.path("mounted"));
    let said = place.home.run(["detach", "--force", "disk"]);
    assert_eq!((said.code, &*said.stderr), (0, ""), "{}", kind.word());
    place.is_stored(&backing, "a loop device above");
    unmounted(mount);
}

on_each!(a_filesystem_on_a_loop_device_above_is_stored);

/// The outer one goes last whichever comes first by its name, and also if it goes alone.
fn a_disk_whose_image_lies_on_another_disk_is_stored_first(kind: Kind) {
    // The order is that of the devices, which the kernel tells alike for each.
    let ways: &[_] = match kind {
        Kind::Loop => &[("1", "2", "--all"), ("2", "1", "--all"), ("1", "2", "1")],
        _ => &[("1", "2", "--all")],
    };
    for &(outer, inner, which) in ways {
        let place = Place::new(kind);
        let home = &place.home;
        let backing = home.path("outermost");
        let parameter = place.backing(&backing, 64 << 20);
        let device = place.attach_at(outer, &parameter);
        let below = written(&device, home.path("outer"));
        fs::remove_file(below.at.join("file")).unwrap();
        let parameter = place.backing(&below.at.join("image"), 24 << 20);
        let device = place.attach_at(inner, &parameter);
        let above = written(&device, home.path("inner"));
        let said = home.run(["detach", "--force", which]);
        assert_eq!(
            (said.code, &*said.stderr),
            (0, ""),
            "{}, {which}",
            kind.word()
        );
        place.is_stored(&backing, &format!("{outer} below {inner}, {which}"));
        drop(home.run(["detach", "--all", "--force"]));
        unmounted(above);
        unmounted(below);
    }
}

on_each_device!(a_disk_whose_image_lies_on_another_disk_is_stored_first);

/// The outer disk is stored, and the one that hangs is named.
fn a_disk_that_hangs_above_does_not_keep_the_rest_from_being_stored(kind: Kind) {
    let place = Place::new(kind);
    let home = &place.home;
    let (device, backing) = place.attach("outer");
    let mount = written(&device, home.path("mounted"));
    let image = mount.at.join("image");
    let parameter = place.backing(&image, 4 << 20);
    let inner = place.attach_at("inner", &parameter);
    fs::write(mount.at.join("image.hang"), "").unwrap();
    let said = home.run(["detach", "--force", "outer"]);
    said.refused(&format!("{} could not be stored within", inner.display()));
    place.is_stored(&backing, "below a disk that hangs");
    drop(home.run(["detach", "--force", "inner"]));
    unmounted(mount);
}

on_each_device!(a_disk_that_hangs_above_does_not_keep_the_rest_from_being_stored);

fn what_could_not_be_stored_is_said(kind: Kind) {
    for way in ["detach", "signal"] {
        let place = Place::new(kind);
        let home = &place.home;
        let (mut child, target, _backing) = start(&place, None);
        assert_eq!(first_line(&mut child), target);
        let mount = (kind != Kind::File).then(|| written(target.as_ref(), home.path("mounted")));
        fs::write(home.path("broken"), "").unwrap();
        match way {
            "detach" => home
                .run(["detach", "--force", "disk"])
                .refused("could not be stored: Input/output error"),
            _ => signal(i32::try_from(child.id()).unwrap(), Signal::TERM),
        }
        assert_eq!(end(&mut child).code(), Some(1), "{}, {way}", kind.word());
        drop(mount);
    }
}

on_each!(what_could_not_be_stored_is_said);

/// Memory that a program shares with the disk is all that the kernel keeps of a FUSE file.
fn shared_memory_is_stored(kind: Kind) {
    const SCRIPT: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(file, 1 << 20)
text = sys.argv[2].encode()
memory[:len(text)] = text
print('written', flush=True)
sys.stdin.read()
";
    let place = Place::new(kind);
    let (disk, backing) = place.attach("disk");
    let mut user = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(&disk)
        .arg(format!("{TEXT}\n").repeat(COPIES))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut user), "written");
    let said = place.home.run(["detach", "--force", "disk"]);
    assert_eq!((said.code, &*said.stderr), (0, ""), "{}", kind.word());
    place.is_stored(&backing, "shared memory");
    drop(user.stdin.take());
    user.wait().unwrap();
}

on_each!(shared_memory_is_stored);
