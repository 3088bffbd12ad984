//! What proc(5) shows of processes and threads, for all who read it.
//!
//! A process that ends is as good as gone: whatever cannot be read is `None`. To show `stat` and `status` the
//! kernel takes hold of the process's memory, and a reader that lets go of it last does what the end of the process
//! would have done, such as the last close of a device. It may wait for that device: nobody reads under a lock that
//! serving a disk takes. Nothing here reads `cmdline` or `environ`, which lie in that memory and can be on a disk.
//!
//! The crate `procfs` (0.18) does not fit. It wants UTF-8, and so shows no `status` of a thread whose name has
//! other bytes, and no mounts at all if one is at such a path; it leaves `\040` in paths, and does not read
//! `/proc/swaps`. It takes twice the time for `status` (29 µs to 15 µs) and makes a program 170 KiB larger.

use std::fmt::Display;
use std::fs;
use std::io;

/// The numbers of all processes that are seen from here.
///
/// # Errors
/// `/proc` cannot be read.
pub fn processes() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// What a process calls itself, at most 15 bytes.
#[must_use]
pub(crate) fn name(process: impl Display) -> Option<String> {
    let name = read(process, "comm")?;
    Some(name.trim_end().to_owned())
}

/// The number of a process as it knows itself, which is another one where it has a process namespace of its own.
#[must_use]
pub fn own_number(process: impl Display) -> Option<u32> {
    own(&Status::of(process)?)
}

fn own(status: &Status) -> Option<u32> {
    let mut numbers = status.field("NSpid")?.split_ascii_whitespace();
    numbers.next_back()?.parse().ok()
}

/// Fields of proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The parent process; 0 if that cannot be seen from here.
    pub parent: u32,
    /// The kernel's `PF_` bits.
    pub(crate) flags: u64,
    /// When it was started, in the kernel's ticks since the boot: tells it from a later one of that number.
    pub(crate) started: u64,
}

impl Stat {
    /// Those of a process or a thread.
    #[must_use]
    pub fn of(thread: impl Display) -> Option<Self> {
        Self::parse(&read(thread, "stat")?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name, field 2, may hold anything.
        let (_, behind) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: field(4)?.try_into().ok()?,
            flags: field(9)?,
            started: field(22)?,
        })
    }
}

/// proc_pid_status(5) of a process or a thread.
#[derive(Debug)]
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn of(thread: impl Display) -> Option<Self> {
        read(thread, "status").map(Self)
    }

    /// What stands behind `name` and a colon.
    pub(crate) fn field<'a>(&'a self, name: &str) -> Option<&'a str> {
        let rest = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
        self.0.lines().find_map(rest).map(str::trim)
    }
}

#[cfg(test)]
impl From<&str> for Status {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A file about a process or a thread. The name of a thread in it may hold any bytes.
fn read(thread: impl Display, file: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{thread}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_own_number_last() {
        let inner = Status("NSpid:\t812\t44\t3\n".to_owned());
        assert_eq!(own(&inner), Some(3));
        assert_eq!(own_number("self"), Some(std::process::id()));
        assert_eq!(own_number("no process"), None);
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "1 (a) b) S 2 3 4 5 6 4194560 8 9 10 11 12 13 14 15 16 17 18 19 777 23";
        let found = Stat {
            parent: 2,
            flags: 4_194_560,
            started: 777,
        };
        assert_eq!(Stat::parse(stat), Some(found));
        for broken in ["", "1 (a", "1 (a) S 2 3 4 5 6 7 8", "1 (a) S x 3"] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
        let status = Status::from("Name:\tTgid: 1\nTgid:\t7\n");
        assert_eq!(status.field("Tgid"), Some("7"));
        assert_eq!(status.field("Tgi"), None);
    }

    #[test]
    fn a_thread_of_any_name_is_read() {
        let named = std::thread::spawn(|| {
            let thread = rustix::thread::gettid();
            fs::write("/proc/thread-self/comm", b"a\xff) b\n").unwrap();
            let thread = thread.as_raw_nonzero();
            assert_eq!(name(thread).as_deref(), Some("a\u{fffd}) b"));
            assert_eq!(
                Status::of(thread).unwrap().field("Pid"),
                Some(&*thread.to_string())
            );
            assert_eq!(
                Stat::of(thread).unwrap().parent,
                std::os::unix::process::parent_id()
            );
        });
        named.join().unwrap();
        let all: Vec<u32> = processes().unwrap().collect();
        assert!(all.contains(&std::process::id()));
        assert_eq!(Stat::of(u32::MAX), None);
    }
}
