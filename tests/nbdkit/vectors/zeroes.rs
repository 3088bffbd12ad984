//! Zeroing: what the plugin is called with, and what happens where it would rather not.

use super::{FLUSH, PWRITE, Vector, ZERO, client};

/// Declines: pwrite shall do it.
const DECLINES: &str = "
def zero(h, count, offset, flags):
    note('zero', count, offset, flags)
    nbdkit.set_error(errno.EOPNOTSUPP)
";
/// A disk of 256 MiB that notes writes and forgets them.
const LARGE: &str = "
def get_size(h): return 256 << 20
def pwrite(h, buf, offset, flags): note('pwrite', len(buf), offset, flags)
";
const MIB: u64 = 1 << 20;

/// What a client is told that does `act`, and the calls that it leads to.
#[track_caller]
fn zeroed(vector: &Vector, act: &str, told: &str, calls: &[&str]) {
    let seen = vector.client(&format!("connect()\nprint(told({act}))"));
    assert_eq!(seen.trim_end(), told, "{act}");
    assert_eq!(vector.calls(), calls, "{act}");
}

#[test]
fn vector_15_declining_makes_it_a_write() {
    if !client() {
        return;
    }
    let raises = format!("{DECLINES}    raise RuntimeError('not here')\n");
    for zero in [DECLINES, &raises] {
        let vector = Vector::new(&[PWRITE, zero]);
        let calls = &["zero 8192 4096 1", "pwrite 8192 4096 0"];
        zeroed(&vector, "h.zero, 8192, 4096", "ok", calls);
    }
}

#[test]
fn vector_16_an_exception_does_not_decline_whatever_its_errno() {
    if !client() {
        return;
    }
    let raises = "
def zero(h, count, offset, flags):
    note('zero', count, offset, flags)
    raise OSError(errno.EOPNOTSUPP, 'not here')
";
    let vector = Vector::new(&[PWRITE, raises]);
    zeroed(&vector, "h.zero, 8192, 4096", "EIO", &["zero 8192 4096 1"]);
}

#[test]
fn vector_17_what_is_written_instead_is_written_where_it_belongs() {
    if !client() {
        return;
    }
    let vector = Vector::new(&[LARGE, DECLINES]);
    let mut calls = vec![format!("zero {} 0 1", 200 * MIB)];
    for (len, at) in [(64, 0), (64, 64), (64, 128), (8, 192)] {
        calls.push(format!("pwrite {} {} 0", len * MIB, at * MIB));
    }
    let calls: Vec<_> = calls.iter().map(String::as_str).collect();
    zeroed(&vector, "h.zero, 200 << 20, 0", "ok", &calls);
}

#[test]
fn vector_18_writes_in_place_of_a_durable_zero_are_flushed_once() {
    if !client() {
        return;
    }
    for zero in [DECLINES, ""] {
        let vector = Vector::new(&[LARGE, FLUSH, zero]);
        let mut calls = vec!["zero 104857600 0 1"];
        calls.truncate(usize::from(!zero.is_empty()));
        calls.extend([
            "pwrite 67108864 0 0",
            "pwrite 37748736 67108864 0",
            "flush 0",
        ]);
        zeroed(&vector, "h.zero, 100 << 20, 0, FUA", "ok", &calls);
    }
}

#[test]
fn vector_19_the_flags_of_zero() {
    if !client() {
        return;
    }
    let more = "
def can_fua(h): return nbdkit.FUA_NATIVE
def can_fast_zero(h): return True
";
    let vector = Vector::new(&[PWRITE, FLUSH, ZERO, more]);
    for (flags, seen) in [
        ("0", "zero 512 0 1"),
        ("NO_HOLE", "zero 512 0 0"),
        ("FUA", "zero 512 0 3"),
        ("FAST", "zero 512 0 9"),
        ("FUA | NO_HOLE | FAST", "zero 512 0 10"),
    ] {
        zeroed(&vector, &format!("h.zero, 512, 0, {flags}"), "ok", &[seen]);
    }
}

#[test]
fn vector_36_a_write_in_place_of_zeroes_that_cannot_be_done_is_einval_and_the_server_lives() {
    if !client() {
        return;
    }
    let cannot = "
def pwrite(h, buf, offset, flags):
    note('pwrite', len(buf), offset, flags)
    nbdkit.set_error(errno.EOPNOTSUPP)
    raise RuntimeError('cannot')
";
    let never = "def can_zero(h): return False\n";
    for zero in ["", DECLINES, never] {
        let vector = Vector::new(&[cannot, zero]);
        let mut calls = vec!["zero 512 0 1", "pwrite 512 0 0"];
        if zero != DECLINES {
            calls.remove(0);
        }
        // The second time it is asked the same, so the server has not gone.
        for _ in 0..2 {
            zeroed(&vector, "h.zero, 512, 0", "EINVAL", &calls);
        }
        zeroed(
            &vector,
            "h.pwrite, b'x' * 512, 0",
            "EINVAL",
            &calls[calls.len() - 1..],
        );
    }
}
