//! The FUSE front end: a disk as one regular file, which is itself the mount point.
//!
//! The worker starts it through [`At`]; the loop front end puts a device on such a file.
//! The file behaves as a block device would: its size is fixed, opening it with `O_TRUNC` keeps its
//! data, ftruncate(2) to another size is `EPERM`, a write past its end `ENOSPC`. Nothing is cached
//! in the kernel except for shared mappings. Without root nobody else may look at it, not even root.
//!
//! Here is what starts and ends it, in `place` where it may be mounted, in `file` what each
//! operation does to the disk, in `session` the words of the kernel, and in `under_way` who need not wait
//! for the disk because they are being killed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use parking_lot::Mutex;
use pydisk_kernel::mounts::{self, Device, Unmount};
use pydisk_kernel::threads;
use pydisk_kernel::unforked::Unforked;
use rustix::io::Errno;

use super::{Dead, Ended, Endpoint, FrontEnd, OneDisk, Options, Prepared, Published, Row, Target};
use crate::disk::{Disk, OpenDisk};
use crate::refusal::words;
use crate::{Refusal, ResultExt};

mod file;
mod leftover;
mod place;
mod session;
mod stop;
mod under_way;

use file::DiskFile;
use leftover::{fails, remove_leftover, source};
pub(super) use leftover::{is_mounted, remove_hidden};
use place::Place;
#[cfg(any(test, feature = "fuzzing"))]
pub use session::fuzzing::fuse_calls;
use stop::Stop;

/// Most threads. Those that wait for the kernel cost little: it wakes one for each call.
const THREADS_AT_MOST: u16 = 256;

/// How long the file may take to tell its size and to be opened, which does not ask the disk.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// How long `stop` waits for requests under way.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long `stop` waits for the threads, which have nothing to do any more.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

pub(super) static ROW: Row = Row {
    name: "fuse",
    words: "a FUSE file",
    offered: Some(|host| host.fuse.clone().map(drop)),
    free: |folder| Target::File(file_in(folder)),
    blocks: false,
    clients: false,
    mounts: true,
    guard: None,
    stopper: false,
};

/// The file of an attachment whose user names none.
fn file_in(folder: &Path) -> PathBuf {
    folder.join("disk.img")
}

/// A path.
#[derive(Debug)]
pub(super) struct At(pub(super) PathBuf);

impl FrontEnd for At {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn prepare(
        &self,
        options: &Options,
        _passed: Vec<OwnedFd>,
    ) -> Result<Box<dyn Prepared>, Refusal> {
        let (path, options) = (self.0.clone(), options.clone());
        let start = move |disk, ended| start(&path, disk, &options, ended);
        Ok(Box::new(OneDisk(start)))
    }

    fn remove_leftover(&self, dead: &Dead<'_>, new: bool) -> Result<(), Refusal> {
        remove_leftover(&self.0, dead, new)
    }

    /// A program that opens the file again and again would make an ordinary one there, and fill that as if nothing
    /// had happened. In the attachment's own folder, which goes, it could not.
    fn fails(&self, dead: &Dead<'_>, there: Option<&Path>) -> bool {
        self.0 != file_in(dead.folder) && fails(&self.0, dead, there)
    }

    fn is_new(&self) -> bool {
        !self.0.exists()
    }
}

/// Make `disk` a file at `path`, which is free or an empty file.
///
/// # Errors
/// One sentence, and nothing is left behind.
fn start(
    path: &Path,
    disk: Arc<dyn OpenDisk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Published>, Refusal> {
    Ok(Box::new(FuseFile::start(path, disk, options, ended, None)?))
}

/// Called in a FUSE thread after a file was closed for good; it must not touch the file.
pub(super) type Released = Box<dyn Fn() + Send + Sync>;

/// A mounted disk.
#[derive(Debug)]
pub(super) struct FuseFile {
    place: Place,
    endpoint: Endpoint,
    mounted: Device,
    file: Arc<DiskFile>,
    stop: Arc<Stop>,
    ended: Arc<Mutex<Option<Ended>>>,
    finished: mpsc::Receiver<()>,
    down: bool,
}

impl FuseFile {
    /// As [`start`]; `released` is called whenever somebody closed the file.
    pub(super) fn start(
        path: &Path,
        disk: Arc<dyn OpenDisk>,
        options: &Options,
        ended: Ended,
        released: Option<Released>,
    ) -> Result<Self, Refusal> {
        let place = Place::take(path, &options.folder)?;
        let limits = disk.limits().clone();
        let mut config = Config::default();
        config.mount_options = mount_options(options, limits.read_only);
        // The kernel checks permissions by the mode of the file, so that root may let others in.
        // Without root, `allow_other` is the administrator's to give, in /etc/fuse.conf.
        config.acl = if rustix::process::geteuid().is_root() {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        let threads = if limits.parallel {
            options.lanes.clamp(1, THREADS_AT_MOST)
        } else {
            1
        };
        let only = (config.acl == SessionACL::Owner).then(|| rustix::process::geteuid().as_raw());

        // Until the first close(2) was answered: it must not be that of a program which is killed while the
        // plugin hangs. Nobody but the kernel opens the file behind a loop device.
        let closes_wait = released.is_none();
        let stop = Stop::new().refuse_during(path.display(), "eventfd")?;
        let stop = Arc::new(stop);
        let file = Arc::new(DiskFile::new(disk));
        let served = session::Served::new(Arc::clone(&file), released, only);
        let session = Session::new(session::Handshake, place.real(), &config)
            .map_err(|error| mount_refused(path, &error))?;
        let mounted =
            mounts::device_at(place.real()).refuse_during(path.display(), "after mount")?;
        let ended = Arc::new(Mutex::new(Some(ended)));
        let mut unforked = Unforked::default();
        unforked.add(session.as_fd());
        let serving = Serving {
            unforked,
            session,
            served,
            threads,
            stop: Arc::clone(&stop),
        };
        let finished = run(serving, path.to_path_buf(), &ended, &options.name)?;
        let this = Self {
            endpoint: Endpoint::Device(place.shown().to_owned()),
            place,
            mounted,
            file,
            stop,
            ended,
            finished,
            down: false,
        };
        match mounts::size_at(path, FIRST_ANSWER) {
            Ok(size) if size == limits.size => {}
            Ok(size) => return Err(this.undo(&format!("it has {size} bytes"))),
            Err(error) => return Err(this.undo(&words(&error))),
        }
        if closes_wait && let Err(error) = mounts::open_and_close(path, FIRST_ANSWER) {
            return Err(this.undo(&words(&error)));
        }
        Ok(this)
    }

    /// Where the file is, without symbolic links.
    pub(super) fn real_path(&self) -> &Path {
        self.place.real()
    }

    /// Tell the worker once that the disk is out of reach, unless it is being stopped.
    pub(super) fn teller(&self) -> impl Fn(String) + Send + Sync + use<> {
        let ended = Arc::clone(&self.ended);
        move |reason| tell(&ended, reason)
    }

    /// From here on nobody is told any more that the file ended.
    pub(super) fn hush(&self) {
        self.ended.lock().take();
    }

    fn undo(self, why: &str) -> Refusal {
        let path = self.place.shown().display().to_string();
        let refusal = Refusal::about(
            &path,
            format_args!("the mounted file cannot be used: {why}"),
        );
        match self.end() {
            Ok(()) => refusal,
            Err(also) => refusal.hint(also),
        }
    }

    /// Unmount, wait for the threads, and remove the file if it was made for this.
    pub(super) fn end(mut self) -> Result<(), Refusal> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.down, true) {
            return Ok(());
        }
        self.hush();
        let unmounted = self.unmount_or_force();
        // Whatever came of that: what is left to do with the disk may need the thread that serves.
        self.stop.set();
        if let Err(error) = unmounted {
            self.let_go();
            return Err(Refusal::caused(self.place.shown().display(), error).during("unmount"));
        }
        let waited = self.finished.recv_timeout(JOIN_PATIENCE);
        if waited == Err(RecvTimeoutError::Timeout) {
            log::debug!(
                "{}: its threads go with its last user",
                self.place.shown().display()
            );
        }
        // Where the file lives on at another place, somebody may keep it busy there.
        let hung = !self.let_go();
        self.place.release()?;
        if hung {
            return Err(Refusal::about(
                self.place.shown().display(),
                "unmounted, but a request is still being served and does not end",
            ));
        }
        Ok(())
    }

    /// Have the requests under way answered, and later ones fail with EIO; false if one takes too long.
    fn let_go(&self) -> bool {
        let closed = self.file.close(PATIENCE);
        if !closed {
            self.file.give_up();
        }
        closed
    }

    /// Unmount, and by force where somebody has the file open.
    fn unmount_or_force(&self) -> io::Result<()> {
        match self.unmount(Unmount::Idle) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                self.let_go();
                self.unmount(Unmount::Force)
            }
            unmounted => unmounted,
        }
    }

    /// Unmount, if what is mounted there still is this file.
    fn unmount(&self, how: Unmount) -> io::Result<()> {
        match mounts::mounted_at(self.place.real())? {
            Some(mount) if mount.device == self.mounted => {
                mounts::unmount_fuse(self.place.real(), how)?;
            }
            _ => return Ok(()),
        }
        if how == Unmount::Force
            && let Err(error) = mounts::abort_fuse(self.mounted)
        {
            log::debug!("{}: ending FUSE: {error}", self.place.shown().display());
        }
        Ok(())
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        if let Err(refusal) = self.take_down() {
            log::error!("{refusal}");
        }
    }
}

impl Published for FuseFile {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn stop(self: Box<Self>) -> Result<(), Refusal> {
        self.end()
    }
}

fn mount_options(options: &Options, read_only: bool) -> Vec<MountOption> {
    vec![
        MountOption::FSName(source(&options.identity.word(&options.name))),
        MountOption::Subtype("pydisk".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        if read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ]
}

/// What the threads of a mounted file need.
struct Serving {
    /// What the plugin forks does not keep the connection alive when this process is killed.
    unforked: Unforked,
    /// Unmounts when dropped, if that was not done before.
    session: Session<session::Handshake>,
    served: session::Served,
    threads: u16,
    stop: Arc<Stop>,
}

/// Serve the session on threads of its own; the receiver hears when the last one is gone.
fn run(
    serving: Serving,
    path: PathBuf,
    ended: &Arc<Mutex<Option<Ended>>>,
    name: &str,
) -> Result<mpsc::Receiver<()>, Refusal> {
    let (done, finished) = mpsc::channel();
    let ended = Arc::clone(ended);
    let shown = path.display().to_string();
    let serve = move || {
        // Memory that the disk needs must not wait for data to be written to the disk itself,
        // see PR_SET_IO_FLUSHER(2const). It takes CAP_SYS_RESOURCE; the threads inherit it.
        if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
            log::debug!("{}: PR_SET_IO_FLUSHER: {error}", path.display());
        }
        let Serving {
            unforked,
            session,
            served,
            threads,
            stop,
        } = serving;
        let outcome = served.run(session.as_fd(), threads, &stop);
        drop(unforked);
        drop(session);
        let path = path.display();
        tell(
            &ended,
            match outcome {
                Ok(()) => format!("{path}: unmounted from outside"),
                Err(error) => format!("{path}: FUSE ended: {}", words(&error)),
            },
        );
        drop(done);
    };
    threads::deep(format!("fuse {name}"))
        .spawn(serve)
        .refuse_during(shown, "starting a thread")?;
    Ok(finished)
}

fn tell(ended: &Mutex<Option<Ended>>, reason: String) {
    let Some(ended) = ended.lock().take() else {
        return;
    };
    if let Err(unheard) = ended.send(reason) {
        log::warn!("{}", unheard.0);
    }
}

fn mount_refused(path: &Path, error: &io::Error) -> Refusal {
    let refusal = Refusal::caused(format_args!("target `{}`", path.display()), error)
        .during("mounting by FUSE");
    if !Path::new("/dev/fuse").exists() {
        return refusal.hint("there is no /dev/fuse; load it with `modprobe fuse`");
    }
    match error.kind() {
        io::ErrorKind::NotFound => {
            refusal.hint("without root it takes `fusermount3`, which is in the package fuse3")
        }
        io::ErrorKind::PermissionDenied => {
            refusal.hint("it takes root, or the right to open /dev/fuse")
        }
        _ => refusal,
    }
}

#[cfg(test)]
mod tests;
