//! Where log lines go: to standard error, which is the user's until the disk can be used and the
//! log file of the attachment from then on.
//!
//! The file is opened for appending and put in the place of standard output and standard error, so
//! that what the plugin prints goes there too. It starts anew when it has grown to [`LARGEST`],
//! because /run is memory.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::inotify;
use serde::{Deserialize, Serialize};

use crate::refusal::words;
use crate::{Refusal, escape};

mod limiter;
mod syslog;

pub(crate) use limiter::Limiter;

/// Bytes that the log file may have before it starts anew.
pub(crate) const LARGEST: u64 = 4 << 20;

/// What is logged, and where to once the disk can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// From which importance on.
    pub level: Detail,
    /// Where to.
    pub sink: Sink,
    /// Whether the user hears of errors only. The log has all.
    pub quiet: bool,
}

impl Default for Logging {
    /// What happens, in the attachment's folder.
    fn default() -> Self {
        Self {
            level: Detail::Events,
            sink: Sink::Folder,
            quiet: false,
        }
    }
}

/// From which importance on something is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detail {
    /// What is wrong or likely to be.
    Warnings,
    /// What happens to the disk as well.
    Events,
    /// What only helps to find a fault as well.
    Everything,
}

/// Where log lines go once the disk can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sink {
    /// The standard error that the processes were started with.
    StandardError,
    /// The log in the attachment's folder.
    Folder,
    /// The log in the attachment's folder; errors and warnings to the system's log as well.
    System,
    /// A file of the user's, which grows for ever.
    File(PathBuf),
    /// Nowhere.
    Nothing,
}

impl Logging {
    /// Log to standard error as the attachment `name` from here on.
    pub(crate) fn start(&self, name: &str) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        start(name, self.level);
    }

    /// The file that it goes to, if it is one; `own` is the one in the attachment's folder.
    pub(crate) fn file(&self, own: &Path) -> Option<PathBuf> {
        match &self.sink {
            Sink::Folder | Sink::System => Some(own.to_owned()),
            Sink::File(path) => Some(path.clone()),
            Sink::StandardError | Sink::Nothing => None,
        }
    }

    /// Open where it goes to, which may take a right that the process gives up later.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(crate) fn open(&self, own: &Path) -> io::Result<Opened> {
        let named = |path: &Path| {
            appended(path).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("log `{}`: {}", path.display(), words(&error)),
                )
            })
        };
        Ok(match &self.sink {
            Sink::StandardError => Opened::default(),
            Sink::Folder => Opened::bounded(named(own)?, None),
            Sink::System => Opened::bounded(named(own)?, syslog::Socket::open()),
            Sink::File(path) => Opened::unbounded(named(path)?),
            Sink::Nothing => Opened::unbounded(OpenOptions::new().write(true).open("/dev/null")?),
        })
    }
}

/// A place for log lines that is open but not yet in use.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    file: Option<File>,
    bounded: bool,
    system: Option<syslog::Socket>,
}

impl Opened {
    fn bounded(file: File, system: Option<syslog::Socket>) -> Self {
        Self {
            file: Some(file),
            bounded: true,
            system,
        }
    }

    fn unbounded(file: File) -> Self {
        Self {
            file: Some(file),
            ..Self::default()
        }
    }

    /// Log there from here on; what is printed goes there, too.
    ///
    /// # Errors
    /// As dup(2).
    pub(crate) fn take_over(self) -> io::Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        rustix::stdio::dup2_stdout(&file)?;
        rustix::stdio::dup2_stderr(&file)?;
        IN_FILE.store(true, Ordering::Relaxed);
        if self.bounded {
            let found = file.metadata()?;
            BOUNDED.get_or_init(|| (found.dev(), found.ino()));
        }
        if let Some(socket) = self.system
            && SYSTEM.set(socket).is_err()
        {
            log::debug!("the system's log is in use already");
        }
        Ok(())
    }
}

fn appended(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// What stands at the head of each line.
static NAME: OnceLock<String> = OnceLock::new();

/// Whether standard error is the log file, where lines need a time.
static IN_FILE: AtomicBool = AtomicBool::new(false);

/// Whether standard error gets errors only, as long as it is not the log file.
static QUIET: AtomicBool = AtomicBool::new(false);

/// The file that starts anew when it has grown, by device and inode. A plugin may put a file of its own
/// in the place of standard error, or of any other descriptor.
static BOUNDED: OnceLock<(u64, u64)> = OnceLock::new();

/// The system's log, if it is told as well.
static SYSTEM: OnceLock<syslog::Socket> = OnceLock::new();

/// What stands at the head of each line; `pydisk` before that is known.
pub(crate) fn name() -> &'static str {
    NAME.get().map_or("pydisk", String::as_str)
}

struct Logger;

/// Log to standard error as the attachment `name` from here on. Only the first call counts.
pub(crate) fn start(name: &str, detail: Detail) {
    if NAME.set(name.to_owned()).is_err() || log::set_logger(&Logger).is_err() {
        return;
    }
    log::set_max_level(match detail {
        Detail::Warnings => LevelFilter::Warn,
        Detail::Events => LevelFilter::Info,
        Detail::Everything => LevelFilter::Debug,
    });
}

/// Hand what would be logged as an error to `taker` from here on, and drop all else. In place of
/// [`start`].
pub(crate) fn collect(taker: impl Fn(&str) + Send + Sync + 'static) {
    struct Collector<F>(F);
    impl<F: Fn(&str) + Send + Sync> Log for Collector<F> {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() == Level::Error
        }
        fn log(&self, record: &Record<'_>) {
            if self.enabled(record.metadata()) {
                self.0(&record.args().to_string());
            }
        }
        fn flush(&self) {}
    }
    if log::set_boxed_logger(Box::new(Collector(taker))).is_ok() {
        log::set_max_level(LevelFilter::Error);
    }
}

/// Whether this process logs to a file that must not grow for ever.
pub(crate) fn is_bounded() -> bool {
    BOUNDED.get().is_some()
}

/// A descriptor that can be read when somebody has written to the log file at `path`.
///
/// # Errors
/// What the kernel says about inotify.
pub(crate) fn watch(path: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
    Ok(watch)
}

/// Forget something that a [`watch`] has seen, whatever it was; whether there was anything.
pub(crate) fn seen(watch: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    inotify::Reader::new(watch, &mut buffer).next().is_ok()
}

/// Start the log file anew if it has grown too large. Called before each line, and by the agent when somebody has
/// written to it and now and then.
pub(crate) fn limit() {
    let Some(log) = BOUNDED.get() else {
        return;
    };
    let Ok(file) = rustix::io::dup(rustix::stdio::stderr()).map(File::from) else {
        return;
    };
    if !file
        .metadata()
        .is_ok_and(|found| (found.dev(), found.ino()) == *log && found.len() > LARGEST)
    {
        return;
    }
    // Every process appends, so all of them go on at the new end. If it cannot be emptied, it grows.
    if file.set_len(0).is_ok() {
        write(
            Level::Warn,
            &format_args!("the log was larger than 4 MiB and starts anew here"),
        );
    }
}

/// What libraries have to say is for finding faults, unless it is one. That of FUSE finds none: it names all that
/// the kernel could do, and warns of a file system that is unmounted already, as it should be.
fn is_told(by: &str, level: Level, most: LevelFilter) -> bool {
    by.starts_with("pydisk")
        || level == Level::Error
        || (most >= LevelFilter::Debug && !by.starts_with("fuser"))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_told(metadata.target(), metadata.level(), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            limit();
            write(record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

/// The lines behind the first are set in, for what a plugin raised could look like another event otherwise.
fn of_one_event(text: &str) -> String {
    escape::lines(text).replace('\n', "\n  ")
}

fn write(level: Level, text: &std::fmt::Arguments<'_>) {
    let in_file = IN_FILE.load(Ordering::Relaxed);
    if !in_file && level > Level::Error && QUIET.load(Ordering::Relaxed) {
        return;
    }
    let name = NAME.get().map_or("", String::as_str);
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let time = if in_file {
        format!("{} ", humantime::format_rfc3339_millis(SystemTime::now()))
    } else {
        String::new()
    };
    let text = of_one_event(&text.to_string());
    let line = format!("{time}pydisk: {name}: {word}: {text}\n");
    say(&line);
    if level <= Level::Warn
        && let Some(system) = SYSTEM.get()
    {
        system.send(level, &format!("{name}: {word}: {text}"));
    }
}

/// Write to standard error in one piece, so that lines of several processes do not mix. Nothing in it moves a
/// cursor.
///
/// A failure is ignored on purpose: there is no other place to tell it to, and a terminal that was
/// closed must not end a disk.
pub(crate) fn say(text: &str) {
    io::stderr()
        .lock()
        .write_all(escape::lines(text).as_bytes())
        .unwrap_or_default();
}

/// Write text for people to standard output; nothing in it moves a cursor. A reader that has gone away is no
/// reason to fail: it has what it wanted.
///
/// # Errors
/// One sentence for any other reason, such as a full disk.
pub(crate) fn print(text: &str) -> Result<(), Refusal> {
    written(escape::lines(text).as_bytes())
}

/// As [`print()`], of what a program takes as it stands, such as a path; people see it as they see all else.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_exactly(text: &str) -> Result<(), Refusal> {
    if io::stdout().is_terminal() {
        return print(text);
    }
    written(text.as_bytes())
}

/// As [`print()`], in JSON.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Refusal> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Refusal::about("standard output", error))?;
    written(format!("{}\n", escape::json(&text)).as_bytes())
}

fn written(bytes: &[u8]) -> Result<(), Refusal> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal::caused("standard output", error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_heard_where_faults_are_looked_for() {
        use Level::{Debug, Error, Warn};
        for (by, level, most, told) in [
            ("pydisk::worker", Debug, LevelFilter::Info, true),
            ("rustls::server", Error, LevelFilter::Info, true),
            ("rustls::server", Warn, LevelFilter::Info, false),
            ("rustls::server", Debug, LevelFilter::Debug, true),
            ("fuser::mnt", Error, LevelFilter::Debug, true),
            ("fuser::mnt", Warn, LevelFilter::Debug, false),
            ("fuser::session", Debug, LevelFilter::Debug, false),
        ] {
            assert_eq!(is_told(by, level, most), told, "{by} {level} {most}");
        }
    }
}
