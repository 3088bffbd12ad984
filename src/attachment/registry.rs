//! Where attachments keep their state: one folder each, below /run/pydisk or the user's runtime
//! folder. Reserving a name, listing what is there, and finding what nobody looks after any more.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::folder::{Folder, Held, Role, finish_removals};
use super::patience;
use crate::{Refusal, ResultExt};

/// Overrides the folder that holds the attachments' folders; for tests and for containers.
pub const ROOT_VARIABLE: &str = "PYDISK_STATE_DIR";

/// The folder that holds the attachments' folders.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Find the folder of this user, and make it where it is missing.
    ///
    /// # Errors
    /// One sentence: there is no place for it, or it belongs to somebody else.
    pub fn open() -> Result<Self, Refusal> {
        if let Some(path) = named()? {
            return Self::at(path);
        }
        let opened = usual().map_or_else(
            || {
                Err(Refusal::about(
                    "there is no folder for the state of attachments",
                    "XDG_RUNTIME_DIR is not set",
                )
                .hint(format!(
                    "log in so that it is set, set {ROOT_VARIABLE}, or run pydisk as root"
                )))
            },
            Self::at,
        );
        opened.or_else(|refusal| {
            let left = Some(temporary()).filter(|path| path.exists());
            left.map_or(Err(refusal), Self::at)
        })
    }

    /// [`Root::open`] for who must not need a runtime folder.
    ///
    /// # Errors
    /// One sentence: the folder that was named is no good, or not even the last resort is.
    pub fn open_anywhere() -> Result<Self, Refusal> {
        if let Some(path) = named()? {
            return Self::at(path);
        }
        let opened = usual().map(Self::at).and_then(Result::ok);
        opened.map_or_else(|| Self::at(temporary()), Ok)
    }

    /// [`Root::open`], and the last resort beside it, where a server of this user's lies that was
    /// started without a runtime folder, as from cron.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn all() -> Result<Vec<Self>, Refusal> {
        let first = Self::open()?;
        let other = temporary();
        if named()?.is_some() || first.0 == other || !other.exists() {
            return Ok(vec![first]);
        }
        match Self::at(other) {
            Ok(other) => Ok(vec![first, other]),
            Err(refusal) => {
                log::debug!("{refusal}");
                Ok(vec![first])
            }
        }
    }

    fn at(path: PathBuf) -> Result<Self, Refusal> {
        // Others may look which names there are; what is inside is for the owner.
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path);
        let about = format!("state folder `{}`", path.display());
        made.refuse(&about).map_err(|refusal| {
            refusal.hint(format_args!(
                "set {ROOT_VARIABLE} to a folder that can be written"
            ))
        })?;
        // Anybody may put a link where everybody may write.
        let look = if path == temporary() {
            fs::symlink_metadata
        } else {
            fs::metadata
        };
        let found = look(&path).refuse(&about)?;
        let ours = found.is_dir() && found.uid() == geteuid().as_raw();
        if !ours || found.mode() & 0o022 != 0 {
            return Err(Refusal::about(
                about,
                "it must belong to you and be writable by nobody else",
            ));
        }
        Ok(Self(path))
    }

    /// The root that a folder lies in.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        let path = folder.path();
        Self(path.parent().unwrap_or(path).to_owned())
    }

    /// The folder of the attachment `name`, which need not exist.
    #[must_use]
    pub fn folder(&self, name: &str) -> Folder {
        Folder::at(self.0.join(name))
    }

    /// The folders that are there, by name.
    ///
    /// # Errors
    /// One sentence, if the root cannot be read.
    pub fn folders(&self) -> Result<Vec<Folder>, Refusal> {
        let about = format!("state folder `{}`", self.0.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).refuse(&about)? {
            let entry = entry.refuse(&about)?;
            let named = entry
                .file_name()
                .to_str()
                .is_some_and(|name| check_name(name).is_ok());
            if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(Folder::at(entry.path()));
            }
        }
        found.sort_by(|one, other| one.path().cmp(other.path()));
        Ok(found)
    }

    /// Make a folder for a new attachment and hold its [`Role::Launch`] lock.
    ///
    /// # Errors
    /// One sentence: the name is taken, or the folder cannot be made.
    pub fn reserve(&self, name: &Name) -> Result<(Folder, Held), Refusal> {
        let _registry = self.registry()?;
        match name {
            Name::Given(name) => self.make(name)?.ok_or_else(|| {
                Refusal::about(
                    format_args!("name `{name}`"),
                    "there is such an attachment already",
                )
                .hint("`pydisk list` shows them all; choose another --name")
            }),
            Name::Like(stem) => {
                for number in 1_u32.. {
                    let name = numbered(stem, number);
                    if let Some(made) = self.make(&name)? {
                        return Ok(made);
                    }
                }
                Err(Refusal::about(
                    format_args!("name `{stem}`"),
                    "all numbers are taken",
                ))
            }
        }
    }

    /// `None` if the name is taken.
    fn make(&self, name: &str) -> Result<Option<(Folder, Held)>, Refusal> {
        let folder = self.folder(name);
        let about = format!("folder `{}`", folder.path().display());
        match fs::DirBuilder::new().mode(0o700).create(folder.path()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(Refusal::caused(about, error)),
        }
        // The mode above went through the umask.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).refuse(&about)?;
        let held = folder.hold(Role::Launch).refuse(&about)?;
        Ok(Some((folder, held)))
    }

    /// Take over the folders that nobody looks after: what they left behind is to be removed.
    ///
    /// # Errors
    /// One sentence, if the root cannot be read or locked.
    pub fn abandoned(&self) -> Result<Vec<(Folder, Held)>, Refusal> {
        if let Err(error) = finish_removals(&self.0) {
            log::debug!("state folder `{}`: {error}", self.0.display());
        }
        if self.folders()?.is_empty() {
            return Ok(Vec::new());
        }
        let _registry = self.registry()?;
        let folders = self.folders()?;
        Ok(folders
            .into_iter()
            .filter_map(|folder| {
                let held = folder.claim()?;
                Some((folder, held))
            })
            .collect())
    }

    /// Take over a folder of this root that nobody looks after; nothing where somebody does, or there is none.
    ///
    /// # Errors
    /// One sentence, if the root cannot be locked.
    pub fn claim(&self, folder: &Folder) -> Result<Option<Held>, Refusal> {
        let _registry = self.registry()?;
        Ok(folder.claim())
    }

    /// Remove the folder of an attachment that never came to be, if it is still there: `held` is what
    /// [`Root::reserve`] gave for it.
    ///
    /// # Errors
    /// One sentence, if the root cannot be locked or the folder cannot be removed.
    pub fn release(&self, folder: &Folder, held: &Held) -> Result<(), Refusal> {
        let _registry = self.registry()?;
        if folder.state().exists() {
            // Its agent has come so far that there may be a device: `sweep` will look for that.
            return Ok(());
        }
        folder
            .remove(held)
            .refuse(format_args!("folder `{}`", folder.path().display()))
    }

    /// Held while names are reserved or abandoned folders taken over, and for nothing that can wait.
    fn registry(&self) -> Result<File, Refusal> {
        let path = self.0.join(".lock");
        let about = format!("`{}`", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .refuse(&about)?;
        let patience = Instant::now() + patience::REGISTRY.get();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Refusal::about(
                        about,
                        "another pydisk holds this lock and does not let go",
                    ));
                }
                Err(error) => return Err(Refusal::caused(about, error)),
            }
        }
    }
}

/// The folder that the user named.
fn named() -> Result<Option<PathBuf>, Refusal> {
    let Some(path) = std::env::var_os(ROOT_VARIABLE).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(Refusal::about(
        format_args!("{ROOT_VARIABLE} `{}`", path.display()),
        "an absolute path is needed",
    ))
}

/// The folder that this user has where nothing is said, if there is one.
fn usual() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/run/pydisk".into());
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .map(|path| path.join("pydisk"))
}

/// Where the state of a user lies who has no runtime folder, as in a build or in a cron job.
fn temporary() -> PathBuf {
    format!("/tmp/pydisk-{}", geteuid().as_raw()).into()
}

/// How an attachment gets its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Exactly this.
    Given(String),
    /// This, with a number if it is taken.
    Like(String),
}

impl Name {
    /// A name made from the file name of a plugin.
    #[must_use]
    pub fn from_script(script: &Path) -> Self {
        Self::like(&script.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// A name made from any text.
    #[must_use]
    pub fn like(text: &str) -> Self {
        let name: String = text
            .chars()
            .map(|char| if allowed(char) { char } else { '_' })
            .take(LONGEST - 5)
            .collect();
        let name = name.trim_start_matches(['.', '-']);
        Self::Like(if name.is_empty() { "disk" } else { name }.to_owned())
    }
}

const LONGEST: usize = 64;

fn allowed(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-')
}

/// `stem`, `stem-2`, `stem-3` ...
fn numbered(stem: &str, number: u32) -> String {
    if number == 1 {
        return stem.to_owned();
    }
    format!("{stem}-{number}")
}

/// Accept the name of an attachment.
///
/// # Errors
/// One sentence with what is accepted.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = (1..=LONGEST).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['.', '-']);
    if fits {
        return Ok(());
    }
    Err(Refusal::about(
        format_args!("name `{name}`"),
        "a name has 1 to 64 letters, digits, `.`, `_` or `-`, and begins with a letter, a digit or `_`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::Holder;

    fn root() -> (tempfile::TempDir, Root) {
        let place = tempfile::tempdir().unwrap();
        let root = Root(place.path().to_owned());
        (place, root)
    }

    #[test]
    fn names() {
        for name in ["a", "ramdisk-2", "x.y_z", "_", &"n".repeat(64)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "é",
            &"n".repeat(65),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_script_gives_a_name_that_is_accepted() {
        for (script, name) in [
            ("/x/ramdisk.py", "ramdisk"),
            ("my disk!.py", "my_disk_"),
            ("...py", "disk"),
            ("-é.py", "_"),
        ] {
            let Name::Like(found) = Name::from_script(Path::new(script)) else {
                panic!("a script gives no exact name");
            };
            assert_eq!(found, name, "{script}");
            check_name(&found).unwrap();
        }
        let long = Name::from_script(Path::new(&format!("{}.py", "n".repeat(200))));
        let Name::Like(long) = long else {
            panic!("a script gives no exact name")
        };
        check_name(&numbered(&long, 9999)).unwrap();
    }

    #[test]
    fn a_name_is_reserved_once_and_then_numbered() {
        let (_place, root) = root();
        let (first, _held) = root.reserve(&Name::Like("ram".into())).unwrap();
        let (second, _held) = root.reserve(&Name::Like("ram".into())).unwrap();
        assert_eq!(
            (first.name(), second.name()),
            ("ram".into(), "ram-2".into())
        );
        let refused = root.reserve(&Name::Given("ram".into())).unwrap_err();
        assert!(refused.to_string().starts_with("name `ram`: "), "{refused}");
        assert_eq!(root.folders().unwrap(), [first, second]);
    }

    #[test]
    fn what_is_no_folder_of_an_attachment_is_passed_over() {
        let (_place, root) = root();
        let (folder, _held) = root.reserve(&Name::Given("x".into())).unwrap();
        fs::write(root.0.join("notes"), "").unwrap();
        fs::create_dir(root.0.join("no name")).unwrap();
        assert_eq!(root.folders().unwrap(), [folder]);
    }

    #[test]
    fn folders_are_private() {
        let (_place, root) = root();
        let (folder, _held) = root.reserve(&Name::Given("x".into())).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_folder_without_any_holder_is_abandoned() {
        let (_place, root) = root();
        fs::create_dir(root.0.join("dead")).unwrap();
        fs::write(root.0.join("dead/worker.lock"), "").unwrap();
        let found = root.abandoned().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.name(), "dead");
    }

    #[test]
    fn the_holder_of_a_role_is_named_to_other_processes() {
        // A process does not see its own record locks, so another one has to look.
        let (_place, root) = root();
        let (folder, _held) = root.reserve(&Name::Given("x".into())).unwrap();
        let script = "import fcntl, struct, sys\n\
            f = open(sys.argv[1], 'r+')\n\
            lock = fcntl.fcntl(f, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))\n\
            print(struct.unpack('hhqqi4x', lock)[4])";
        let seen = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(folder.path().join("launch.lock"))
            .output()
            .unwrap();
        let seen = String::from_utf8_lossy(&seen.stdout).trim().to_owned();
        assert_eq!(seen, std::process::id().to_string());
        assert_eq!(folder.holder(Role::Agent), Holder::Nobody);
    }
}
