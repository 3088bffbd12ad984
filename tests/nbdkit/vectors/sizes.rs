//! Sizes of disks and of requests.

use super::{FLUSH, PWRITE, Vector, ZERO, client};
use support::nbd::raw::{Ask, Raw, cmd};

const TRIM: &str = "
def trim(h, count, offset, flags): note('trim', count, offset, flags)
";

#[test]
fn vector_23_sizes_are_ints_up_to_63_bits() {
    if !client() {
        return;
    }
    for (size, seen) in [
        ("1000", "1000"),
        ("True", "1"),
        ("0", "0"),
        ("(1 << 63) - 1", "9223372036854775807"),
        ("1e6", "refused"),
        ("2 ** 63", "refused"),
        ("-1", "refused"),
        ("-5", "refused"),
        ("'1000'", "refused"),
        ("None", "refused"),
    ] {
        let vector = Vector::new(&[&format!("size = {size}\ndef get_size(h): return size\n")]);
        let told = vector.client("print('refused' if told(connect) != 'ok' else h.get_size())");
        assert_eq!(told.trim_end(), seen, "{size}");
        if seen == "refused" {
            vector.logged("an int from 0 to 9223372036854775807 is accepted");
        }
    }
}

#[test]
fn vector_33_64_mib_are_one_call_and_more_is_enomem() {
    if !client() {
        return;
    }
    let large = "
def get_size(h): return 256 << 20
def pread(h, buf, offset, flags): note('pread', len(buf), offset, flags)
def pwrite(h, buf, offset, flags): note('pwrite', len(buf), offset, flags)
";
    let vector = Vector::new(&[large]);
    vector.client(
        "
connect()
h.pwrite(bytes(64 << 20), 4096)
h.pread(64 << 20, 4096)
",
    );
    let calls = ["pwrite 67108864 4096 0", "pread 67108864 4096 0"];
    assert_eq!(vector.calls(), calls);
    // libnbd asks for no more by itself.
    const ENOMEM: u32 = 12;
    let more = (64 << 20) + 1;
    let mut raw = Raw::opened(vector.0.socket(), "");
    assert_eq!(raw.ask(Ask::of(cmd::READ, 0, more), &[]), ENOMEM);
    assert_eq!(raw.pread(0, 1), [0], "the connection goes on");
    let data = vec![1; usize::try_from(more).unwrap()];
    assert_eq!(raw.ask(Ask::of(cmd::WRITE, 0, more), &data), ENOMEM);
    assert_eq!(vector.calls(), ["pread 1 0 0"]);
    assert_eq!(raw.pread(0, 1), [0], "the connection goes on");
}

#[test]
fn vector_34_no_bytes_and_bytes_past_the_end_reach_no_callback() {
    if !client() {
        return;
    }
    let all = "
def cache(h, count, offset, flags): note('cache', count, offset, flags)
def extents(h, count, offset, flags): note('extents', count, offset, flags)
def pread(h, buf, offset, flags): note('pread', len(buf), offset, flags)
";
    let vector = Vector::new(&[PWRITE, FLUSH, ZERO, TRIM, all]);
    let seen = vector.client(
        "
connect()
def status(count, offset): h.block_status(count, offset, lambda *what: 0)
def write(count, offset): h.pwrite(bytes(count), offset)
for act in h.pread, h.trim, h.cache, status, write, h.zero:
    print(*[told(act, count, offset) for count, offset in
            [(0, 0), (0, 1 << 20), (1, 1 << 20), (2, (1 << 20) - 1), (512, 1 << 62)]])
",
    );
    let inval = "EINVAL EINVAL EINVAL EINVAL EINVAL\n".repeat(4);
    let nospc = "ENOSPC ENOSPC ENOSPC ENOSPC ENOSPC\n".repeat(2);
    assert_eq!(seen, inval + &nospc);
    assert_eq!(vector.calls(), [""; 0]);
}

#[test]
fn vector_35_trims_and_zeroes_of_4_gib_are_one_call() {
    if !client() {
        return;
    }
    let large = "
def get_size(h): return 8 << 30
def zero(h, count, offset, flags): note('zero', count, offset, flags)
";
    let vector = Vector::new(&[PWRITE, TRIM, large]);
    vector.client("connect()\nh.trim(0xfffff000, 4096)\nh.zero(0xfffff000, 4096)");
    let calls = ["trim 4294963200 4096 0", "zero 4294963200 4096 1"];
    assert_eq!(vector.calls(), calls);
}
