//! Where log lines go: to standard error, which is the user's until the disk can be used and the
//! log file of the attachment from then on.
//!
//! The file is opened for appending and put in the place of standard output and standard error, so
//! that what the plugin prints goes there too. It starts anew when it has grown to [`LARGEST`],
//! because /run is memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::inotify;

use crate::Refusal;

/// Bytes that the log file may have before it starts anew.
pub(crate) const LARGEST: u64 = 4 << 20;

/// What stands at the head of each line.
static NAME: OnceLock<String> = OnceLock::new();

/// Whether standard error is the log file, where lines need a time.
static IN_FILE: AtomicBool = AtomicBool::new(false);

/// What stands at the head of each line; `pydisk` before that is known.
pub(crate) fn name() -> &'static str {
    NAME.get().map_or("pydisk", String::as_str)
}

struct Logger;

/// Log to standard error as the attachment `name` from here on. Only the first call counts.
pub(crate) fn start(name: &str, verbose: bool) {
    if NAME.set(name.to_owned()).is_err() || log::set_logger(&Logger).is_err() {
        return;
    }
    log::set_max_level(if verbose {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
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

/// Put the log file in the place of standard output and standard error.
///
/// # Errors
/// What the file system says.
pub(crate) fn to_file(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    IN_FILE.store(true, Ordering::Relaxed);
    Ok(())
}

/// How long the log may grow unseen while a plugin prints.
const PAUSE: Duration = Duration::from_millis(50);

/// Limit the log file whoever writes to it, from a thread that sleeps until somebody does: what a
/// plugin prints does not come by here.
///
/// # Errors
/// What the kernel says about inotify; the file is then looked at by [`limit`] alone.
pub(crate) fn watch(path: &Path) -> io::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
    let body = move || {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        // Which event it is does not matter, so those that come with it need not be looked at.
        while inotify::Reader::new(&watch, &mut buffer).next().is_ok() {
            limit();
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("log".into()).spawn(body)?;
    Ok(())
}

/// Start the log file anew if it has grown too large. Called before each line, by [`watch`], and now
/// and then by the agent.
pub(crate) fn limit() {
    if !IN_FILE.load(Ordering::Relaxed) {
        return;
    }
    let Ok(file) = rustix::io::dup(rustix::stdio::stderr()).map(File::from) else {
        return;
    };
    if !file
        .metadata()
        .is_ok_and(|found| found.is_file() && found.len() > LARGEST)
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

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries have to say is for finding faults, unless it is one. A warning is often
        // about what was meant to happen, such as a file system that is unmounted already.
        metadata.target().starts_with("pydisk")
            || metadata.level() == Level::Error
            || log::max_level() >= LevelFilter::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            limit();
            write(record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

fn write(level: Level, text: &std::fmt::Arguments<'_>) {
    let name = NAME.get().map_or("", String::as_str);
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let time = if IN_FILE.load(Ordering::Relaxed) {
        format!("{} ", humantime::format_rfc3339_millis(SystemTime::now()))
    } else {
        String::new()
    };
    let line = format!("{time}pydisk: {name}: {word}: {text}\n");
    say(&line);
}

/// Write to standard error in one piece, so that lines of several processes do not mix.
///
/// A failure is ignored on purpose: there is no other place to tell it to, and a terminal that was
/// closed must not end a disk.
pub(crate) fn say(text: &str) {
    io::stderr()
        .lock()
        .write_all(text.as_bytes())
        .unwrap_or_default();
}

/// Write to standard output. A reader that has gone away is no reason to fail: it has what it wanted.
///
/// # Errors
/// One sentence for any other reason, such as a full disk.
pub(crate) fn print(text: &str) -> Result<(), Refusal> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal::new(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
