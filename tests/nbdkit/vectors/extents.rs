//! Block status: what `extents` may answer.

use super::{Vector, client};

/// What a client sees of 64 KiB.
#[track_caller]
fn seen(extents: &str) -> String {
    let extents = format!("def extents(h, count, offset, flags):\n    {extents}\n");
    let code = "
connect()
try: status()
except nbd.Error as error: print(error.errno)
";
    Vector::new(&[&extents]).client(code).trim_end().to_owned()
}

#[test]
fn vector_21_what_extents_may_be() {
    if !client() {
        return;
    }
    for (extents, expected) in [
        // An iterable of any kind, with tuples in it.
        ("yield 0, 4096, 0; yield 4096, count, 3", "4096 0 61440 3"),
        (
            "return {(0, 4096, 3): 1, (4096, 61440, 0): 2}.keys()",
            "4096 3 61440 0",
        ),
        // Equal neighbours are one, what lies outside is cut off, no bytes are nothing.
        (
            "return [(0, 4096, 2), (4096, 0, 0), (4096, 1 << 40, 2)]",
            "65536 2",
        ),
        ("return [(0, 4096, 0), (8192, 4096, 0)]", "EIO"),
        ("return [(4096, 4096, 0)]", "EIO"),
        ("return []", "EIO"),
        ("return [(0, 0, 0)]", "EINVAL"),
        ("return None", "EIO"),
        ("return [[0, count, 0]]", "EIO"),
        ("return [(0, count)]", "EIO"),
        ("return [(0, -1, 0)]", "EIO"),
        ("return [(0, 1e6, 0)]", "EIO"),
    ] {
        assert_eq!(seen(extents), expected, "{extents}");
    }
}

#[test]
fn vector_22_a_generator_of_extents_that_raises_midway_is_eio() {
    if client() {
        assert_eq!(
            seen("yield 0, 4096, 3; raise RuntimeError('midway')"),
            "EIO"
        );
    }
}
