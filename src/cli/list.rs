//! `pydisk list` and `pydisk show`: what is attached.

use std::fmt::{self, Write};
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use pydisk_kernel::process::is_exiting;
use serde_json::json;

mod activity;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;

use activity::Doing;

use super::complain;
use crate::agent;
use crate::attachment::{
    self, Activity, Connected, Folder, Holder, Phase, Role, Root, State, patience,
};
use crate::frontends::{Endpoint, Target};
use crate::{Refusal, escape, logging};

/// An attachment as it is shown.
pub(super) struct Entry {
    pub(super) folder: Folder,
    state: Option<State>,
    condition: &'static str,
    /// Those of a server; nothing where there is none, or where it does not tell.
    clients: Option<Vec<Connected>>,
    /// Of a disk that is served; nothing where it was not asked for.
    activity: Option<Doing>,
}

impl Entry {
    fn read(folder: Folder) -> Self {
        let (state, condition) = match State::read(&folder) {
            Ok(state) => {
                let condition = condition(&folder, Some(&state));
                (Some(state), condition)
            }
            // One that is being made or removed just now has none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (None, condition(&folder, None))
            }
            Err(error) => {
                let state = folder.state();
                complain(&Refusal::caused(folder.name(), error).during(format_args!(
                    "what is known of it cannot be read: `{}`",
                    state.display()
                )));
                (None, "unreadable")
            }
        };
        Self {
            folder,
            state,
            condition,
            clients: None,
            activity: None,
        }
    }

    /// With the clients, where it is a server that tells.
    fn with_clients(mut self) -> Self {
        let disk = self.state.as_ref().and_then(|state| state.disk.as_ref());
        if disk.is_some_and(|disk| disk.at.device().is_none()) {
            self.clients = attachment::connected(&self.folder).ok();
        }
        self
    }

    /// With what its plugin is busy with, where it serves.
    fn with_activity(mut self) -> Self {
        let disk = self.state.as_ref().and_then(|state| state.disk.as_ref());
        let Some(disk) = disk.filter(|_| self.condition != "crashed") else {
            return self;
        };
        self.activity = Doing::ask(&self.folder, disk);
        self
    }

    fn activity(&self) -> Option<&Activity> {
        self.activity.as_ref()?.told()
    }

    /// What becomes of it, and whether it hangs.
    fn in_words(&self) -> String {
        let mut words = vec![self.condition.to_owned()];
        match self.clients().map(<[Connected]>::len) {
            None => {}
            Some(1) => words.push("1 client".to_owned()),
            Some(count) => words.push(format!("{count} clients")),
        }
        words.extend(self.activity.as_ref().and_then(Doing::hint));
        words.join(", ")
    }

    fn name(&self) -> String {
        self.folder.name()
    }

    /// Whether its disk can be used, or could until now.
    fn serves(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.disk.is_some())
    }

    /// Whether the user can mean it by `which`.
    fn is(&self, which: &str) -> bool {
        if self.name() == which {
            return true;
        }
        let Some(state) = &self.state else {
            return false;
        };
        match &state.disk {
            Some(disk) => disk.at.is(which),
            None => state.target.is(which),
        }
    }

    fn clients(&self) -> Option<&[Connected]> {
        self.clients.as_deref()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let state = self.state.as_ref();
        let disk = state.and_then(|state| state.disk.as_ref());
        let at = disk.map(|disk| &disk.at);
        let parameters: Vec<_> = state
            .map(|state| &state.parameters)
            .into_iter()
            .flatten()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect();
        json!({
            "name": self.name(),
            "state": self.condition,
            "cause": state.and_then(|state| state.cause.as_ref()),
            "device": at.and_then(Endpoint::device),
            "uri": at.and_then(Endpoint::uri),
            "unix_socket": at.and_then(Endpoint::unix_socket),
            "clients": self.clients(),
            "activity": self.activity(),
            "size": disk.map(|disk| disk.size),
            "read_only": disk.map(|disk| disk.read_only),
            "parallel": disk.map(|disk| disk.parallel),
            "lanes": disk.map(|disk| disk.lanes),
            "front_end": disk.map(|disk| &disk.front_end),
            "plugin": state.map(|state| &state.plugin),
            "parameters": parameters,
            "target": state.map(|state| state.target.to_string()),
            "since": state.map(|state| state.since),
            "agent_pid": state.map(|state| state.agent_pid),
            "worker_pid": state.and_then(|state| state.worker_pid),
            "log": state.and_then(|state| state.log.as_ref()),
        })
    }
}

/// What `show --json` tells of an attachment that is there just now. It may be this process's own, so its
/// locks are not looked at.
pub(super) fn attached(folder: &Folder) -> serde_json::Value {
    let entry = Entry {
        folder: folder.clone(),
        state: State::read(folder).ok(),
        condition: "attached",
        clients: None,
        activity: None,
    };
    entry.json()
}

/// Refuse a target that an attachment has. One that only wants it may not get it; the front end sees
/// to that. What fails there, because its attachment has crashed, is removed.
///
/// # Errors
/// One sentence that names the attachment and how to end it.
pub(super) fn refuse_taken(target: &Target) -> Result<(), Refusal> {
    if !target.front_end().is_one_place() {
        return Ok(());
    }
    let shown = target.to_string();
    let has_it = |entry: &Entry| entry.serves() && entry.is(&shown);
    let patience = Instant::now() + patience::CRASH.get();
    let taken = loop {
        let Some(taken) = without_clients()?.into_iter().find(has_it) else {
            return Ok(());
        };
        if taken.condition == "crashed" && makes_way(&taken.folder)? {
            return Ok(());
        }
        if !is_dying(&taken.folder) || Instant::now() >= patience {
            break taken;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let name = taken.name();
    Err(Refusal::about(
        format_args!("target `{shown}`"),
        format_args!("the attachment `{name}` has it"),
    )
    .hint(format!(
        "`pydisk detach {name}` ends it, `pydisk show {name}` tells more"
    )))
}

/// Whether one of its processes is about to be gone, and what it holds with it.
fn is_dying(folder: &Folder) -> bool {
    [Role::Agent, Role::Worker].iter().any(|&role| {
        let holder = folder.holder(role);
        matches!(holder, Holder::Process(pid) if is_exiting(pid.as_raw_nonzero().get()))
    })
}

/// Remove what a crashed attachment left; whether it is gone.
fn makes_way(crashed: &Folder) -> Result<bool, Refusal> {
    let patience = Instant::now() + patience::CRASH.get();
    loop {
        if let Some(lost) = agent::clear(crashed, false)? {
            log::debug!("{lost}");
        }
        let gone = !crashed.path().exists();
        if gone || Instant::now() >= patience {
            return Ok(gone);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What becomes of an attachment, in a word or two.
fn condition(folder: &Folder, state: Option<&State>) -> &'static str {
    let alive = |role| folder.holder(role) != Holder::Nobody;
    let worker = alive(Role::Worker);
    if worker && !alive(Role::Agent) {
        return "agent lost";
    }
    match state.map(|state| state.phase) {
        None | Some(Phase::Starting) => "starting",
        Some(Phase::Attached) if !worker => dead(folder),
        Some(Phase::Attached) => "attached",
        Some(Phase::Stopping) => "stopping",
        Some(Phase::Crashed) => "crashed",
    }
}

/// What becomes of one that was attached and whose worker is dead. Its agent may not know yet; or it has
/// been detached since its state was read.
fn dead(folder: &Folder) -> &'static str {
    let now = State::read(folder).map(|state| state.phase);
    if matches!(now, Ok(Phase::Attached | Phase::Crashed)) && !attachment::ended_well(folder) {
        return "crashed";
    }
    "stopping"
}

/// All attachments, after what is left of dead ones was removed.
pub(super) fn entries() -> Result<Vec<Entry>, Refusal> {
    let found = without_clients()?.into_iter();
    Ok(found.map(Entry::with_clients).collect())
}

/// As [`entries`], and no worker is asked, which may not answer.
fn without_clients() -> Result<Vec<Entry>, Refusal> {
    let mut found = Vec::new();
    for root in Root::all()? {
        agent::sweep(&root)?;
        found.extend(root.folders()?.into_iter().map(Entry::read));
    }
    Ok(found)
}

/// The attachment that the user means.
pub(super) fn find(entries: Vec<Entry>, which: &str) -> Result<Entry, Refusal> {
    if let Some(found) = entries.into_iter().find(|entry| entry.is(which)) {
        return Ok(found);
    }
    let refusal = Refusal::about(
        format_args!("`{which}`"),
        "nothing of this name or device is attached",
    );
    if attachment::check_name(which).is_ok() {
        let mut logs = Root::all()?
            .into_iter()
            .map(|root| attachment::kept_log(&root.folder(which)));
        if let Some(log) = logs.find(|log| log.exists()) {
            return Err(refusal.hint(format!("it ended badly; its log is {}", log.display())));
        }
    }
    Err(refusal.hint("`pydisk list` shows what is attached"))
}

pub(super) fn list(json: bool) -> Result<ExitCode, Refusal> {
    let entries: Vec<_> = entries()?.into_iter().map(Entry::with_activity).collect();
    if json {
        let all: Vec<_> = entries.iter().map(Entry::json).collect();
        logging::print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows =
        vec![["NAME", "DEVICE", "SIZE", "PLUGIN", "FRONT END", "STATE"].map(String::from)];
    rows.extend(entries.iter().map(row));
    logging::print(&table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn row(entry: &Entry) -> [String; 6] {
    let dash = || "-".to_owned();
    let disk = entry.state.as_ref().and_then(|state| state.disk.as_ref());
    let plugin = entry
        .state
        .as_ref()
        .and_then(|state| state.plugin.file_name());
    [
        entry.name(),
        disk.map_or_else(dash, |disk| disk.at.to_string()),
        disk.and_then(|disk| disk.size).map_or_else(dash, human),
        plugin.map_or_else(dash, |name| name.to_string_lossy().into_owned()),
        disk.map_or_else(dash, |disk| disk.front_end.clone()),
        entry.in_words(),
    ]
}

/// Columns as wide as their widest cell, but for the last.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let shown = |row: &[String; N]| {
        row.each_ref()
            .map(|cell| escape::one_line(cell).into_owned())
    };
    let rows: Vec<_> = rows.iter().map(shown).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0);
            let gap = if column == 0 { "" } else { "  " };
            line.push_str(&format!("{gap}{cell:width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A size in the largest unit in which it has at most one decimal place of interest.
fn human(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T", "P", "E"];
    let mut unit = 0;
    // In tenths, so that the rest is done without floating point.
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    if tenths % 10 == 0 {
        return format!("{}{}", tenths / 10, units[unit]);
    }
    format!("{}.{}{}", tenths / 10, tenths % 10, units[unit])
}

pub(super) fn show(which: &str, json: bool) -> Result<ExitCode, Refusal> {
    let entry = find(entries()?, which)?.with_activity();
    if json {
        logging::print_json(&entry.json())?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::print(&text(&entry))?;
    Ok(ExitCode::SUCCESS)
}

fn text(entry: &Entry) -> String {
    let mut lines = vec![
        ("name", entry.name()),
        ("state", entry.condition.to_owned()),
    ];
    if let Some(state) = &entry.state {
        if let Some(cause) = &state.cause {
            lines.push(("cause", cause.clone()));
        }
        lines.push(("plugin", state.plugin.display().to_string()));
        for (key, value) in &state.parameters {
            lines.push(("parameter", format!("{key}={value}")));
        }
        lines.push(("target", state.target.to_string()));
        if let Some(disk) = &state.disk {
            let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            let word = disk.at.uri().map_or("device", |_| "uri");
            lines.push((word, disk.at.to_string()));
            lines.push(("front end", disk.front_end.clone()));
            if let Some(size) = disk.size {
                lines.push(("size", format!("{} ({size})", human(size))));
            }
            if let Some(read_only) = disk.read_only {
                lines.push(("read-only", yes(read_only)));
            }
            lines.push(("parallel", yes(disk.parallel)));
        }
        lines.push(("since", time(state.since)));
        lines.push(("agent", state.agent_pid.to_string()));
        if let Some(worker) = state.worker_pid {
            lines.push(("worker", worker.to_string()));
        }
        let log = state.log.as_ref().map(|path| path.display().to_string());
        lines.push((
            "log",
            log.unwrap_or_else(|| "standard error of the agent".to_owned()),
        ));
    }
    lines.extend(entry.activity.iter().flat_map(Doing::lines));
    for client in entry.clients().into_iter().flatten() {
        let tls = if client.tls { ", TLS" } else { "" };
        let since = time(client.since);
        lines.push((
            "client",
            format!("{}: {client}{tls}, since {since}", client.number),
        ));
    }
    let mut text = String::new();
    for (what, value) in lines {
        writeln!(text, "{what:<11}{}", escape::one_line(&value)).unwrap_or_default();
    }
    text
}

/// Seconds since 1970 for people; a number where they lead past the years that can be written.
fn time(since: u64) -> String {
    let mut text = String::new();
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(since));
    let written = time.map(|time| write!(text, "{}", humantime::format_rfc3339_seconds(time)));
    match written {
        Some(Ok(())) => text,
        None | Some(Err(fmt::Error)) => format!("{since} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, shown) in [
            (0, "0B"),
            (512, "512B"),
            (1023, "1023B"),
            (1024, "1K"),
            (1536, "1.5K"),
            (256 << 20, "256M"),
            (999_936, "976.5K"),
            (1 << 40, "1T"),
            (i64::MAX as u64, "8E"),
        ] {
            assert_eq!(human(bytes), shown);
        }
    }

    #[test]
    fn times_for_people() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(time(253_402_300_800), "253402300800 s after 1970");
        assert_eq!(time(u64::MAX), "18446744073709551615 s after 1970");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "BB"], ["ccc", "d"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows), "A    BB\nccc  d\n");
    }
}
