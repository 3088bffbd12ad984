//! `pydisk bench` measures what a plugin does on each front end, and leaves nothing behind.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::device::Kind;
use support::home::{Home, Said, end, signal, until};
use support::say;

/// Sleeps two milliseconds for each request.
const SLEEPS: &str = "
import time
API_VERSION = 2
def open(readonly): return readonly
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    time.sleep(0.002)
    buf[:] = bytes(len(buf))
def pwrite(h, buf, offset, flags): time.sleep(0.002)
";

/// What `bench --json` says of this script.
#[track_caller]
fn benched(home: &Home, text: &str, options: &[&str]) -> (Said, Value) {
    let script = home.script("plugin.py", text);
    let mut args = vec!["bench", "--json", "--time", "200ms"];
    args.extend(options);
    args.push(script.to_str().unwrap());
    let said = home.run(&args);
    let json = serde_json::from_str(&said.stdout).unwrap_or(Value::Null);
    assert_eq!(home.attachments(), [""; 0], "{said:?}");
    (said, json)
}

/// The front ends that this host has, with the names that `bench` has for them.
fn available() -> Vec<&'static str> {
    let kinds = [
        (Kind::Ublk, "ublk"),
        (Kind::Nbd, "nbd-kernel"),
        (Kind::Loop, "loop"),
        (Kind::File, "fuse"),
    ];
    let here = kinds.into_iter().filter(|(kind, _)| kind.available());
    here.map(|(_, name)| name).chain(["nbd"]).collect()
}

fn number(row: &Value, field: &str) -> f64 {
    row[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field}: {row}"))
}

#[test]
fn a_slow_plugin_is_seen_to_be_slow_on_each_front_end() {
    let home = Home::new();
    let (said, report) = benched(&home, SLEEPS, &["--depth", "1", "--depth", "4"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(report["read_only"], true);
    let available = available();
    let mut measured = Vec::new();
    let mut cpu_us = 0.0;
    for front_end in report["front_ends"].as_array().unwrap() {
        let name = front_end["name"].as_str().unwrap();
        if !available.contains(&name) {
            let reason = front_end["reason"].as_str().unwrap();
            say(&format!("not measured: {name}: {reason}"));
            continue;
        }
        measured.push(name);
        assert_eq!(front_end["size"], 1 << 20, "{front_end}");
        assert_eq!(front_end["lanes"], 1, "{front_end}");
        assert!(number(front_end, "attach_ms") > 1.0);
        let rows = front_end["workloads"].as_array().unwrap();
        assert_eq!(rows.len(), 4, "{front_end}");
        rows.iter().for_each(is_consistent);
        cpu_us += rows
            .iter()
            .map(|row| number(&row["figures"], "cpu_us"))
            .sum::<f64>();
    }
    assert_eq!(measured, available);
    // Where the kernel counts by its ticks, as User-Mode Linux does, a load may stay between two.
    assert!(cpu_us > 0.0, "{said:?}");
}

/// The figures of a plugin that sleeps, one request at a time.
#[track_caller]
fn is_consistent(row: &Value) {
    let figures = &row["figures"];
    let of = |field| number(figures, field);
    assert_eq!(row["failed"], serde_json::json!({}), "{row}");
    assert!(of("p50_us") <= of("p99_us"), "{row}");
    let depth = number(row, "depth");
    if depth <= 1.0 {
        // Alone, a request is one call, and as slow as that.
        assert!(of("callbacks") > 0.99, "{row}");
        assert!(of("inside_us") >= 2000.0, "{row}");
        assert!(of("p50_us") >= 1950.0, "{row}");
        let all = of("inside_us") + of("outside_us");
        assert!((of("iops") * all / 1e6 - 1.0).abs() < 0.01, "{row}");
        assert!((of("inside_share") - of("inside_us") / all).abs() < 0.01);
    }
    // The kernel may make one request of two neighbours.
    assert!(of("inside_us") >= 2000.0 * of("callbacks"), "{row}");
    assert!(of("callbacks") > 0.0, "{row}");
    let mib = of("iops") * number(row, "block") / f64::from(1 << 20);
    assert!((of("mib_per_s") / mib - 1.0).abs() < 0.01, "{row}");
}

/// Fails all requests unless four of them are inside at once, for which the first one waits 30 s.
const MEETS: &str = "
import threading, time
API_VERSION = 2
lock = threading.Lock()
met = threading.Event()
inside = 0
patience_s = 30
def thread_model(): return 3
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    global inside, patience_s
    with lock:
        inside += 1
        if inside == 4: met.set()
    try:
        if not met.wait(patience_s):
            patience_s = 0
            raise TimeoutError
        time.sleep(0.002)
        buf[:] = bytes(len(buf))
    finally:
        with lock: inside -= 1
";

#[test]
fn lanes_share_the_time() {
    let home = Home::new();
    let options = ["--lanes", "4", "--depth", "8", "--front-end", "nbd"];
    let (said, report) = benched(&home, MEETS, &options);
    assert_eq!(said.code, 0, "{said:?}");
    let front_end = &report["front_ends"][0];
    assert_eq!(front_end["lanes"], 4, "{said:?}");
    let figures = &front_end["workloads"][0]["figures"];
    let of = |field| number(figures, field);
    assert!(of("inside_us") >= 2000.0, "{figures}");
    // No more than four at a time, by the mean. How many fewer is a matter of the machine.
    assert!(of("iops") * of("inside_us") / 1e6 < 4.01, "{figures}");
    assert!(of("inside_share") <= 1.0, "{figures}");
    let each = (of("inside_us") + of("outside_us")) / 4.0;
    assert!((of("iops") * each / 1e6 - 1.0).abs() < 0.01, "{figures}");
}

/// The time of a coroutine is its whole life, not the call that makes it.
#[test]
fn coroutines_are_measured_to_their_end() {
    let home = Home::new();
    let text = "
import asyncio
API_VERSION = 2
inside = 0
met = asyncio.Event()
patience_s = 30
def thread_model(): return 3
def open(readonly): return 0
def get_size(h): return 1 << 20
async def pread(h, buf, offset, flags):
    global inside, patience_s
    inside += 1
    if inside == 8: met.set()
    try:
        await asyncio.wait_for(met.wait(), patience_s)
        await asyncio.sleep(0.002)
        buf[:] = bytes(len(buf))
    except asyncio.TimeoutError:
        patience_s = 0
        raise
    finally:
        inside -= 1
";
    let (said, report) = benched(&home, text, &["--front-end", "nbd", "--depth", "8"]);
    assert_eq!(said.code, 0, "{said:?}");
    let front_end = &report["front_ends"][0];
    assert_eq!(front_end["lanes"], 64, "{front_end}");
    let figures = &front_end["workloads"][0]["figures"];
    assert!(number(figures, "inside_us") >= 1990.0, "{figures}");
}

#[test]
fn requests_that_fail_are_counted_and_told() {
    let home = Home::new();
    // Every other call. There are two at least, on the slowest machine, for so many begin at once.
    let text = SLEEPS.replace(
        "time.sleep(0.002)\n    buf",
        "calls.append(0)\n    if len(calls) % 2: raise KeyError('odd')\n    buf",
    ) + "calls = []\n";
    let options = ["--front-end", "nbd", "--block", "4k", "--depth", "2"];
    let (said, report) = benched(&home, &text, &options);
    assert_eq!(said.code, 1, "{said:?}");
    let row = &report["front_ends"][0]["workloads"][0];
    let failed = number(&row["failed"], "Input/output error");
    assert!(failed > 0.0 && failed < number(row, "requests"), "{row}");
    assert!(number(&row["figures"], "iops") > 0.0);
    let told = said.stderr.matches("KeyError: 'odd'").count();
    assert_eq!(told, 2, "the error and its traceback, once: {said:?}");

    let script = home.path("plugin.py");
    let args = ["bench", "--time", "100ms", "--front-end", "nbd"];
    let said = home.run(args.iter().copied().chain([script.to_str().unwrap()]));
    assert_eq!(said.code, 1, "{said:?}");
    let words = " requests failed: Input/output error\n";
    assert!(said.stdout.contains(words), "{said:?}");
}

#[test]
fn nothing_is_written_unless_it_is_said() {
    let home = Home::new();
    let text = SLEEPS.replace("return readonly", "assert readonly");
    let (said, report) = benched(&home, &text, &["--front-end", "nbd"]);
    assert_eq!(said.code, 0, "{said:?}");
    let rows = |report: &Value| {
        let rows = report["front_ends"][0]["workloads"].as_array().unwrap();
        let names = rows.iter().map(|row| row["name"].as_str().unwrap());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let reads = [
        "4k random reads, depth 1",
        "4k random reads, depth 16",
        "256k sequential reads, depth 8",
    ];
    assert_eq!(rows(&report), reads);
    // And with it, it is.
    let (said, _) = benched(&home, &text, &["--front-end", "nbd", "--write"]);
    assert_eq!(said.code, 1, "{said:?}");
    let text = text.replace("assert readonly", "assert not readonly");
    let (said, report) = benched(&home, &text, &["--front-end", "nbd", "--write"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(report["read_only"], false);
    let all = rows(&report);
    assert_eq!(all.len(), 5);
    assert_eq!(all[2], "4k random writes, depth 1");
}

#[test]
fn writes_reach_the_plugin_on_each_front_end() {
    let home = Home::new();
    let text = "
API_VERSION = 2
data = bytearray(1 << 20)
def open(readonly): return None
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
def close(h): assert data.count(0xa5) > 100 << 10
";
    let (said, report) = benched(&home, text, &["--write", "--block", "16k"]);
    assert_eq!(said.code, 0, "{said:?}");
    for front_end in report["front_ends"].as_array().unwrap() {
        for row in front_end["workloads"].as_array().unwrap() {
            assert!(number(&row["figures"], "iops") > 0.0, "{row}");
        }
    }
}

#[test]
fn a_table_for_people() {
    let home = Home::new();
    let script = home.script("plugin.py", SLEEPS);
    let said = home.run(["bench", "--time", "100ms", script.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<_> = said.stdout.lines().collect();
    assert!(lines[0].starts_with("FRONT END"), "{said:?}");
    for front_end in ["ublk", "nbd-kernel", "loop", "fuse", "nbd"] {
        let here = available().contains(&front_end);
        let head = if here {
            format!("{front_end} ")
        } else {
            format!("{front_end}: ")
        };
        assert!(lines.iter().any(|line| line.starts_with(&head)), "{said:?}");
    }
    let verdict = lines.last().unwrap();
    assert!(verdict.starts_with("The plugin takes "), "{said:?}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let home = Home::new();
    let script = home.script("plugin.py", SLEEPS);
    let script = script.to_str().unwrap();
    for kind in [Kind::Ublk, Kind::Nbd] {
        if kind.available() {
            continue;
        }
        let name = if kind == Kind::Nbd {
            "nbd-kernel"
        } else {
            "ublk"
        };
        let said = home.run(["bench", "--front-end", name, script]);
        said.refused(&format!("--front-end {name}: "));
    }
    for usage in [
        &["--front-end", "floppy"][..],
        &["--time", "0"],
        &["--block", "1000"],
        &["--depth", "0"],
        &["/dev/ublkb0"],
    ] {
        let args = ["bench", script].into_iter().chain(usage.iter().copied());
        assert_eq!(home.run(args).code, 2, "{usage:?}");
    }
    home.run(["bench", "no-such-plugin"])
        .refused("no-such-plugin");
    let broken = home.script("broken.py", "raise ValueError('at once')");
    let said = home.run(["bench", "--time", "100ms", broken.to_str().unwrap()]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("ValueError: at once"), "{said:?}");
    // Smaller than a request.
    let small = SLEEPS.replace("1 << 20", "1 << 10");
    let (said, report) = benched(&home, &small, &["--front-end", "nbd"]);
    assert_eq!(said.code, 1, "{said:?}");
    let reason = report["front_ends"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("1024 bytes is smaller"), "{reason}");
}

#[test]
fn a_plugin_that_dies_is_told_and_the_rest_is_measured() {
    let home = Home::new();
    let text = format!(
        "{}\nimport os\ncount = 0\n",
        SLEEPS.replace(
            "    time.sleep(0.002)\n",
            "    global count\n    count += 1\n    if count == 40: os.abort()\n"
        )
    );
    let (said, report) = benched(&home, &text, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    let all = report["front_ends"].as_array().unwrap();
    let tried = all.iter().filter(|one| one["failed"] == true);
    let mut count = 0;
    for front_end in tried {
        let reason = front_end["reason"].as_str().unwrap();
        assert!(reason.contains("was killed by SIGABRT"), "{reason}");
        count += 1;
    }
    assert_eq!(count, available().len(), "{said:?}");
}

/// Start a bench that goes on for minutes, and wait until its disk is there.
fn going_on(home: &Home, text: &str, options: &[&str]) -> std::process::Child {
    let script = home.script("plugin.py", text);
    let mut args = vec!["bench", "--time", "600"];
    args.extend(options);
    args.push(script.to_str().unwrap());
    let child = home.start(&args);
    until("the disk is attached", || {
        home.attachments().first().is_some_and(|name| {
            let state = std::fs::read_to_string(home.state(name).join("state.json"));
            state.is_ok_and(|state| state.contains("\"attached\""))
        })
    });
    child
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let home = Home::new();
    for front_end in available() {
        for sent in [Signal::INT, Signal::TERM] {
            let mut child = going_on(&home, SLEEPS, &["--front-end", front_end]);
            signal(child.id().cast_signed(), sent);
            let status = end(&mut child);
            assert_eq!(status.code(), Some(1), "{front_end}");
            let said = Said::of(&child.wait_with_output().unwrap());
            assert!(said.stderr.contains("bench: interrupted"), "{said:?}");
            assert_eq!(said.stdout, "");
            assert_eq!(home.attachments(), [""; 0], "{front_end}");
        }
    }
}

#[test]
fn a_bench_that_is_killed_leaves_nothing_behind() {
    let home = Home::new();
    for front_end in available() {
        let mut child = going_on(&home, SLEEPS, &["--front-end", front_end]);
        signal(child.id().cast_signed(), Signal::KILL);
        end(&mut child);
        until("the disk is gone", || home.attachments().is_empty());
    }
}

#[test]
fn a_plugin_that_hangs_does_not_keep_the_user_waiting() {
    let home = Home::new();
    let hangs = SLEEPS.replace(
        "time.sleep(0.002)",
        "time.sleep(0 if offset < 99999 else 1000)",
    );
    for front_end in available() {
        let options = ["--front-end", front_end, "--patience", "1"];
        let mut child = going_on(&home, &hangs, &options);
        let status = end(&mut child);
        assert_eq!(status.code(), Some(1), "{front_end}");
        let said = Said::of(&child.wait_with_output().unwrap());
        let words = "bench: the disk has not answered for 1 s";
        assert!(said.stderr.contains(words), "{said:?}");
        assert_eq!(home.attachments(), [""; 0], "{front_end}");
    }
    // Nor does an impatient user have to wait.
    let mut child = going_on(&home, &hangs, &["--front-end", "nbd"]);
    std::thread::sleep(Duration::from_millis(100));
    signal(child.id().cast_signed(), Signal::INT);
    assert_eq!(end(&mut child).code(), Some(1));
    assert_eq!(home.attachments(), [""; 0]);
}
