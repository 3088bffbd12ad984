//! What lies on what, in scenes that are made up and on loop devices of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use super::scene::{Block, Mounted};
use super::*;
use crate::mounts::Mount;
use crate::testing::{Looped, can_loop, container, fresh, possible, run, soon};

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

fn block(name: &str, above: &[Device]) -> Block {
    Block {
        name: name.to_owned(),
        above: above.to_vec(),
    }
}

fn mount(id: u64, device: Device, source: Option<Device>) -> Mounted {
    let at = PathBuf::from(format!("/mnt/{id}"));
    Mounted {
        reach: at.clone(),
        source,
        mount: Mount {
            id,
            device,
            at,
            kind: "any".to_owned(),
            source: "any".into(),
        },
    }
}

fn file(filesystem: Device, inode: u64, mount: Option<u64>) -> Use {
    Use::File {
        filesystem,
        inode,
        mount,
    }
}

/// Each comes before the next one.
#[track_caller]
fn in_order(scene: &Scene, bottom: Layer, wanted: &[Layer]) {
    let found = order(bottom, |layer| scene.above(layer));
    let places: Vec<_> = wanted
        .iter()
        .map(|layer| {
            let place = found.iter().position(|other| other == layer);
            place.unwrap_or_else(|| panic!("{layer:?} is missing in {found:?}"))
        })
        .collect();
    assert!(places.is_sorted(), "{found:?}");
    assert_eq!(found.last(), Some(&bottom));
}

const DISK: Device = Device {
    major: 259,
    minor: 0,
};

#[test]
fn a_mapped_partition_comes_before_the_disk() {
    let (part, crypt, logical) = (device(259, 1), device(253, 0), device(253, 1));
    let scene = Scene {
        blocks: BTreeMap::from([
            (DISK, block("ublkb0", &[part])),
            (part, block("ublkb0p1", &[crypt])),
            (crypt, block("dm-0", &[logical])),
            (logical, block("dm-1", &[])),
        ]),
        mounts: vec![mount(1, logical, None)],
        ..Scene::default()
    };
    let wanted = [
        Layer::Filesystem(logical),
        Layer::Block(logical),
        Layer::Block(crypt),
        Layer::Block(part),
        Layer::Block(DISK),
    ];
    in_order(&scene, Layer::Block(DISK), &wanted);
}

#[test]
fn an_image_on_a_filesystem_comes_before_that_whether_it_is_mounted_or_not() {
    let inner = device(7, 3);
    for mounts in [vec![mount(1, DISK, None)], Vec::new()] {
        let scene = Scene {
            blocks: BTreeMap::from([(DISK, block("nbd0", &[])), (inner, block("loop3", &[]))]),
            mounts,
            uses: vec![(Layer::Block(inner), file(DISK, 12, None))],
            ..Scene::default()
        };
        let wanted = [
            Layer::Block(inner),
            Layer::Filesystem(DISK),
            Layer::Block(DISK),
        ];
        in_order(&scene, Layer::Block(DISK), &wanted);
    }
}

/// As btrfs does it: a number for the whole and one for each subvolume, and several devices.
#[test]
fn a_filesystem_with_numbers_of_its_own_is_known_by_its_mount() {
    let (other, whole, part, inner) = (device(8, 0), device(0, 50), device(0, 51), device(7, 3));
    let scene = Scene {
        blocks: BTreeMap::from([(DISK, block("nbd0", &[])), (inner, block("loop3", &[]))]),
        mounts: vec![mount(7, whole, Some(other)), mount(8, device(0, 60), None)],
        groups: vec![BTreeSet::from([DISK, other])],
        uses: vec![(Layer::Block(inner), file(part, 12, Some(7)))],
        ..Scene::default()
    };
    let wanted = [
        Layer::Block(inner),
        Layer::Filesystem(whole),
        Layer::Block(DISK),
    ];
    in_order(&scene, Layer::Block(DISK), &wanted);
    let found = order(Layer::Block(DISK), |layer| scene.above(layer));
    assert!(!found.contains(&Layer::Filesystem(device(0, 60))));
}

/// A loop device tells the number of a subvolume and no mount. It may lie on any btrfs, but on nothing else.
#[test]
fn a_file_with_a_number_that_no_mount_shows_may_lie_on_every_btrfs() {
    let (ext4, inner, subvolume) = (device(8, 0), device(7, 3), device(0, 51));
    let scene = |mounts| Scene {
        blocks: BTreeMap::from([
            (DISK, block("nbd0", &[])),
            (ext4, block("sda", &[])),
            (inner, block("loop3", &[])),
        ]),
        mounts,
        groups: vec![BTreeSet::from([DISK])],
        uses: vec![(Layer::Block(inner), file(subvolume, 12, None))],
        ..Scene::default()
    };
    let above = |scene: &Scene, disk| order(Layer::Block(disk), |layer| scene.above(layer));
    let hidden = scene(vec![mount(7, ext4, None)]);
    in_order(
        &hidden,
        Layer::Block(DISK),
        &[Layer::Block(inner), Layer::Block(DISK)],
    );
    assert!(!above(&hidden, ext4).contains(&Layer::Block(inner)));
    // A filesystem without a device, such as a tmpfs, has that number.
    let shown = scene(vec![mount(7, subvolume, None)]);
    assert!(!above(&shown, DISK).contains(&Layer::Block(inner)));
}

#[test]
fn a_disk_of_a_program_comes_before_the_disk_that_it_is_kept_in() {
    let inner = device(43, 0);
    let scene = Scene {
        blocks: BTreeMap::from([(DISK, block("nbd1", &[])), (inner, block("nbd0", &[]))]),
        uses: vec![(Layer::Server(0), file(DISK, 12, None))],
        served: vec![Some(Layer::Block(inner))],
        ..Scene::default()
    };
    let wanted = [
        Layer::Block(inner),
        Layer::Server(0),
        Layer::Filesystem(DISK),
        Layer::Block(DISK),
    ];
    in_order(&scene, Layer::Block(DISK), &wanted);
}

#[test]
fn a_loop_device_on_a_file_that_is_a_disk_comes_before_it() {
    let (inner, fuse) = (device(7, 3), device(0, 44));
    let scene = Scene {
        blocks: BTreeMap::from([(inner, block("loop3", &[]))]),
        uses: vec![
            (Layer::Block(inner), file(fuse, 1, None)),
            (Layer::Block(device(7, 4)), file(device(0, 45), 1, None)),
        ],
        ..Scene::default()
    };
    let bottom = Layer::File(fuse, 1);
    in_order(&scene, bottom, &[Layer::Block(inner), bottom]);
    let found = order(bottom, |layer| scene.above(layer));
    assert!(!found.contains(&Layer::Block(device(7, 4))));
}

#[test]
fn disks_that_lie_on_each_other_have_an_order_all_the_same() {
    let (one, other) = (Layer::Block(DISK), Layer::Block(device(7, 3)));
    let above = |layer| vec![if layer == one { other } else { one }];
    assert_eq!(order(one, above), [other, one]);
    assert_eq!(order(one, |_| vec![one]), [one]);
}

#[test]
fn a_missing_path_is_an_error() {
    let error = store(Path::new("/no/such/disk"), &[], Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn programs_without_disks_lie_on_nothing() {
    let servers = [Server::default(), Server::default()];
    let found = lying_on_each(&servers, Duration::from_secs(1));
    assert_eq!(found, [BTreeSet::new(), BTreeSet::new()]);
}

#[test]
fn faults_read_as_sentences() {
    let fault = |why| Fault {
        what: "/dev/dm-0".to_owned(),
        why,
    };
    let late = fault(Why::Late(Duration::from_millis(1500)));
    assert_eq!(
        late.to_string(),
        "/dev/dm-0 could not be stored within 1.5 s"
    );
    let failed = fault(Why::Failed(rustix::io::Errno::IO)).to_string();
    assert!(
        failed.starts_with("/dev/dm-0 could not be stored: Input/output error"),
        "{failed}"
    );
}

/// Found in the file of a loop device once it is stored.
const TEXT: &str = "what was written to a filesystem before its disk goes";
const COPIES: usize = 2000;

/// How a filesystem is there without a mount that this process finds by its path.
#[derive(Clone, Copy, Debug)]
enum Way {
    Mounted,
    /// Something else is mounted over it.
    Over,
    /// Unmounted, with a file still open.
    Lazily,
    /// Mounted where this process's namespace does not show it.
    Namespace,
}

/// A filesystem on a loop device that was written to, and not synced.
struct Written {
    way: Way,
    at: PathBuf,
    /// Holds a file open, or the mount namespace.
    holder: std::process::Child,
}

impl Written {
    /// `None` where this kernel cannot mount it, which was said.
    fn to(device: &Path, at: &Path, way: Way) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        if !possible("mount", &[device, at]) {
            return None;
        }
        let (shown, device) = (at.display(), device.display());
        let fill =
            format!("i=0; while [ $i -lt {COPIES} ]; do echo '{TEXT}'; i=$((i+1)); done >&9");
        let mount = format!("mount {device} {shown} && ");
        let mount = if matches!(way, Way::Namespace) {
            &mount
        } else {
            ""
        };
        run("sync", &[Path::new("-f"), at]);
        if matches!(way, Way::Namespace) {
            run("umount", &[at]);
        }
        let script = format!("{mount} exec 9>{shown}/file && {fill} && echo written && read line");
        let mut holder = match way {
            Way::Namespace => container(),
            _ => Command::new("env"),
        };
        let mut holder = holder
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        match way {
            Way::Over => run(
                "mount",
                &[Path::new("-t"), Path::new("tmpfs"), Path::new("none"), at],
            ),
            Way::Lazily => run("umount", &[Path::new("-l"), at]),
            Way::Mounted | Way::Namespace => {}
        }
        Some(Self {
            way,
            at: at.to_owned(),
            holder,
        })
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
        let mounts = match self.way {
            Way::Over => 2,
            Way::Mounted => 1,
            Way::Lazily | Way::Namespace => 0,
        };
        for _ in 0..mounts {
            run("umount", &[&self.at]);
        }
    }
}

/// How many lines of the file, which is mostly holes, have the text.
fn copies(path: &Path) -> usize {
    let output = Command::new("grep")
        .args(["-a", "-c", "-F", TEXT])
        .arg(path)
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    found.trim().parse().unwrap()
}

fn stored(path: &Path) -> Vec<String> {
    let faults = store(path, &[], Duration::from_secs(60)).unwrap();
    faults.iter().map(ToString::to_string).collect()
}

fn grow(path: &Path, size: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(size).unwrap();
}

fn is_stored_however_it_is_mounted(name: &str, size: u64, make: &[&str]) {
    if !can_loop() {
        return;
    }
    for way in [Way::Mounted, Way::Over, Way::Lazily, Way::Namespace] {
        let path = fresh(name);
        grow(&path, size);
        let at = path.with_extension("mount");
        let looped = Looped::on(&path);
        let device = looped.0.path();
        let (program, options) = make.split_first().unwrap();
        let arguments: Vec<&Path> = options.iter().map(Path::new).chain([&*device]).collect();
        if possible(program, &arguments)
            && let Some(written) = Written::to(&device, &at, way)
        {
            assert_eq!(stored(&device), Vec::<String>::new(), "{way:?}");
            let found = copies(&path);
            assert!(found >= COPIES - 10, "{way:?}: found {found} times");
            drop(written);
        }
        fs::remove_dir(&at).unwrap();
        soon("nobody holds it", || stable(&device));
        drop(looped);
        fs::remove_file(&path).unwrap();
    }
}

/// Nothing holds the device any more.
fn stable(device: &Path) -> bool {
    crate::usage::users(device, &[]).unwrap().is_empty()
}

#[test]
fn ext4_is_stored_however_it_is_mounted() {
    is_stored_however_it_is_mounted("stored-ext4", 16 << 20, &["mkfs.ext4", "-q"]);
}

#[test]
fn xfs_is_stored_however_it_is_mounted() {
    is_stored_however_it_is_mounted("stored-xfs", 320 << 20, &["mkfs.xfs", "-q", "-f"]);
}

#[test]
fn btrfs_is_stored_however_it_is_mounted() {
    is_stored_however_it_is_mounted("stored-btrfs", 256 << 20, &["mkfs.btrfs", "-q", "-f"]);
}

#[test]
fn what_lies_on_it_by_way_of_others_is_stored_first() {
    is_stored_by_way_of_a_file("stored-stack", &["mkfs.ext4", "-q"], false);
}

/// Then no mount tells on which filesystem the file lies, and its number is not that of the btrfs but of a subvolume.
#[test]
fn what_lies_on_a_btrfs_that_nobody_sees_is_stored_first() {
    is_stored_by_way_of_a_file("stored-unseen", &["mkfs.btrfs", "-q", "-f"], true);
}

/// A loop device on a file of a filesystem on a loop device.
fn is_stored_by_way_of_a_file(name: &str, mkfs: &[&str], hidden: bool) {
    if !can_loop() {
        return;
    }
    let path = fresh(name);
    grow(&path, 256 << 20);
    let outer = Looped::on(&path);
    let at = path.with_extension("mount");
    let device = outer.0.path();
    let options = mkfs[1..].iter().map(Path::new);
    let options: Vec<_> = options.chain([&*device]).collect();
    fs::create_dir(&at).unwrap();
    if !possible(mkfs[0], &options) || !possible("mount", &[&device, &at]) {
        fs::remove_dir(&at).unwrap();
        return fs::remove_file(&path).unwrap();
    }
    let image = at.join("image");
    fs::write(&image, []).unwrap();
    grow(&image, 16 << 20);
    let inner = Looped::on(&image);
    if hidden {
        run("umount", &[Path::new("-l"), &at]);
    }
    run("mkfs.ext4", &[Path::new("-q"), &inner.0.path()]);
    let inside = at.with_extension("inside");
    let written = Written::to(&inner.0.path(), &inside, Way::Lazily).unwrap();
    assert_eq!(stored(&outer.0.path()), Vec::<String>::new());
    let found = copies(&path);
    assert!(found >= COPIES - 10, "found {found} times");
    let servers = [&outer, &inner].map(|looped| Server {
        at: Some(looped.0.path()),
        ..Server::default()
    });
    let lying = lying_on_each(&servers, Duration::from_secs(60));
    assert_eq!(lying, [BTreeSet::from([1]), BTreeSet::new()]);
    drop(written);
    soon("nobody holds it", || stable(&inner.0.path()));
    drop(inner);
    soon("the loop device has let go of its file", || {
        let unmounted = || Command::new("umount").arg(&at).output().unwrap();
        hidden || unmounted().status.success()
    });
    drop(outer);
    fs::remove_dir(&at).unwrap();
    fs::remove_dir(&inside).unwrap();
    fs::remove_file(&path).unwrap();
}
