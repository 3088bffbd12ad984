//! `docs/semantics.md` as tests read it: its tables, the calls that a cell promises, and what becomes of an
//! errno. Whatever is not understood fails the test that reads it, so the document says what is tested.

use crate::device::Kind;
use crate::repository;

/// The name that messages begin with.
const DOCUMENT: &str = "docs/semantics.md";

/// The headings that have a table below them, one for each table.
pub fn headings() -> Vec<String> {
    let mut heading = String::new();
    let mut found = Vec::new();
    let mut in_table = false;
    for line in text().lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        }
        if line.starts_with('|') && !in_table {
            found.push(heading.clone());
        }
        in_table = line.starts_with('|');
    }
    found
}

/// The rows of the one table below `heading`, which must have these columns.
pub fn table<const N: usize>(heading: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let text = text();
    let mut lines = text
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'))
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'));
    let mut rows = lines.by_ref().take_while(|line| line.starts_with('|'));
    let head = rows.next().map(cells).unwrap_or_default();
    assert_eq!(head, columns, "{DOCUMENT}: columns of `{heading}`");
    let rule = rows.next().unwrap_or_default();
    assert_eq!(rule.replace('-', ""), "|".repeat(N + 1), "{DOCUMENT}");
    let found: Vec<_> = rows
        .map(|row| {
            let cells = cells(row);
            <[String; N]>::try_from(cells)
                .unwrap_or_else(|_| panic!("{DOCUMENT}: other than {N} cells: {row}"))
        })
        .collect();
    assert!(!found.is_empty(), "{DOCUMENT}: no row below `{heading}`");
    let another = lines.find(|line| line.starts_with('|'));
    assert_eq!(another, None, "{DOCUMENT}: two tables below `{heading}`");
    found
}

fn text() -> String {
    std::fs::read_to_string(repository(DOCUMENT)).unwrap()
}

/// The cells of a line. A bar that belongs to a cell is written `\|`.
fn cells(line: &str) -> Vec<String> {
    let line = line.replace("\\|", "\0");
    let line = line.trim_end().strip_prefix('|');
    let inner = line.and_then(|line| line.strip_suffix('|'));
    let inner = inner.unwrap_or_else(|| panic!("{DOCUMENT}: no bar at an end: {line:?}"));
    let cell = |cell: &str| cell.trim().replace('\0', "|");
    inner.split('|').map(cell).collect()
}

/// What the document does not say in a way that the tests know.
#[track_caller]
pub fn not_understood(what: &str) -> ! {
    panic!("{DOCUMENT}: not understood: {what}")
}

/// `text` without the marks of code, which must be around all of it.
fn code(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('`')?.strip_suffix('`')?;
    (!inner.contains('`')).then_some(inner)
}

/// The cell for version 1: it may refer to the one for version 2.
pub fn version_1(cell: &str, version_2: &str) -> String {
    match cell {
        "the same" => version_2.to_owned(),
        "the same without flags" => {
            let calls = version_2.split(", then ").map(|call| {
                let without = call.rsplit_once(", ").map(|(call, _)| format!("{call})`"));
                without.unwrap_or_else(|| not_understood(call))
            });
            calls.collect::<Vec<_>>().join(", then ")
        }
        cell => cell.to_owned(),
    }
}

/// The range that a request is about, and how much of it, from its start, is no hole.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub len: u64,
    pub at: u64,
    pub data_len: u64,
}

/// What a cell promises: the calls, as a plugin records them, and the errno that the client is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Promised {
    /// The callback's name and its arguments but the handle: `pwrite 4096 8192 2`.
    pub calls: Vec<String>,
    pub errno: Option<String>,
}

/// Read a cell as "`pwrite(h, buf, offset, 0)`, then `flush(h, 0)`", "nothing", or "`EINVAL`".
pub fn promised(cell: &str, asked: Asked) -> Promised {
    let mut promised = Promised {
        calls: Vec::new(),
        errno: None,
    };
    if cell == "nothing" {
        return promised;
    }
    for step in cell.split(", then ") {
        assert_eq!(promised.errno, None, "{DOCUMENT}: {step} after an errno");
        let (step, len) = match step.strip_suffix(" of the data") {
            Some(step) => (step, asked.data_len),
            None => (step, asked.len),
        };
        let call = code(step).unwrap_or_else(|| not_understood(cell));
        if call.starts_with('E') {
            promised.errno = Some(call.to_owned());
            continue;
        }
        promised.calls.push(recorded(call, len, asked.at));
    }
    promised
}

fn recorded(call: &str, len: u64, at: u64) -> String {
    let inner = call.strip_suffix(')').and_then(|call| call.split_once('('));
    let (name, arguments) = inner.unwrap_or_else(|| not_understood(call));
    let mut words = vec![name.to_owned()];
    for argument in arguments.split(", ") {
        words.push(match argument {
            "h" => continue,
            ".." => format!("{len} {at}"),
            "buf" | "count" => len.to_string(),
            "offset" => at.to_string(),
            "True" | "False" => argument.to_owned(),
            flags => flags.split(" | ").map(flag).sum::<u32>().to_string(),
        });
    }
    words.join(" ")
}

fn flag(name: &str) -> u32 {
    match name {
        "0" => 0,
        "FLAG_MAY_TRIM" => 1,
        "FLAG_FUA" => 2,
        "FLAG_REQ_ONE" => 4,
        "FLAG_FAST_ZERO" => 8,
        _ => not_understood(name),
    }
}

/// What one column of the table of errors says.
#[derive(Debug)]
pub struct Errors {
    rows: Vec<ErrorRow>,
}

#[derive(Debug)]
struct ErrorRow {
    /// None at all is 0.
    numbers: Vec<i32>,
    /// The one callback that the row is about.
    from: Option<String>,
    others: bool,
    cell: String,
}

impl Errors {
    /// What an application sees on this front end.
    pub fn on(kind: Kind) -> Self {
        Self::seen_by(match kind {
            Kind::Ublk => "ublk",
            Kind::Nbd => "nbd device",
            Kind::Loop => "loop",
            Kind::File => "FUSE file",
        })
    }

    /// `column` is the one of a front end, as the document calls it.
    pub fn seen_by(column: &str) -> Self {
        let columns = [
            "chosen",
            "ublk",
            "nbd device",
            "loop",
            "FUSE file",
            "NBD client",
        ];
        let index = columns.iter().position(|name| *name == column).unwrap();
        let rows = table("Errors", columns).into_iter();
        Self {
            rows: rows
                .map(|row| ErrorRow::new(&row[0], &row[index]))
                .collect(),
        }
    }

    /// The errnos that the application may see if the plugin chose `number` in `callback`, with the flag
    /// `with` in the request; empty if nobody can ask.
    pub fn of(&self, callback: &str, number: i32, with: &str) -> Vec<i32> {
        let named = |from: Option<&str>| {
            let mut rows = self
                .rows
                .iter()
                .filter(|row| row.from.as_deref() == from && row.numbers.contains(&number));
            let row = rows.next();
            assert!(rows.next().is_none(), "{DOCUMENT}: two rows for {number}");
            row
        };
        let row = named(Some(callback)).or_else(|| named(None));
        let row = row.or_else(|| self.rows.iter().find(|row| row.others));
        row.unwrap_or_else(|| not_understood(&format!("errno {number}")))
            .seen(callback, number, with)
    }
}

impl ErrorRow {
    fn new(chosen: &str, cell: &str) -> Self {
        let (names, from) = match chosen.split_once(" from ") {
            Some((names, from)) => (
                names,
                Some(code(from).unwrap_or_else(|| not_understood(from))),
            ),
            None => (chosen, None),
        };
        let others = names == "all others";
        let number = |name| match name {
            "none" => 0,
            name => errno(code(name).unwrap_or_else(|| not_understood(chosen))),
        };
        Self {
            numbers: match others {
                true => Vec::new(),
                false => names.split(", ").map(number).collect(),
            },
            from: from.map(str::to_owned),
            others,
            cell: cell.to_owned(),
        }
    }

    fn seen(&self, callback: &str, number: i32, with: &str) -> Vec<i32> {
        if self.cell.is_empty() {
            return Vec::new();
        }
        let named = |word| errno(code(word).unwrap_or_else(|| not_understood(&self.cell)));
        let mut ways = self.cell.split("; ");
        let usual = match ways.next().unwrap_or_default() {
            "itself" => vec![number],
            "itself, or `EIO`" => vec![number, errno("EIO")],
            usual => vec![named(usual)],
        };
        // Each is understood, whether it is asked for or not.
        ways.fold(usual, |usual, way| {
            let (asked, word) = if let Some((word, from)) = way.split_once(" from ") {
                (code(from) == Some(callback), word)
            } else if let Some(word) = way.strip_prefix("with FAST_ZERO ") {
                (with == "FAST_ZERO", word)
            } else if let Some(word) = way.strip_prefix("with DF ") {
                (with == "DF", word)
            } else {
                not_understood(&self.cell)
            };
            let told = vec![named(word)];
            if asked { told } else { usual }
        })
    }
}

/// Linux's number for an errno.
pub fn errno(name: &str) -> i32 {
    const NUMBERS: [(&str, i32); 27] = [
        ("EPERM", 1),
        ("EINTR", 4),
        ("EIO", 5),
        ("ENXIO", 6),
        ("EAGAIN", 11),
        ("ENOMEM", 12),
        ("EBUSY", 16),
        ("ENODEV", 19),
        ("EINVAL", 22),
        ("EFBIG", 27),
        ("ENOSPC", 28),
        ("EROFS", 30),
        ("ENOSYS", 38),
        ("EBADE", 52),
        ("ENODATA", 61),
        ("ETIME", 62),
        ("ENOLINK", 67),
        ("EOVERFLOW", 75),
        ("EREMCHG", 78),
        ("EILSEQ", 84),
        ("ENOTSUP", 95),
        ("EOPNOTSUPP", 95),
        ("ESHUTDOWN", 108),
        ("ETOOMANYREFS", 109),
        ("ETIMEDOUT", 110),
        ("EREMOTEIO", 121),
        ("EDQUOT", 122),
    ];
    let found = NUMBERS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| not_understood(name)).1
}
