//! What an export promises, and what a plugin may answer when it is asked.

use super::{BASE, FLUSH, PWRITE, Vector, ZERO, attach, client};
use support::nbd::Server;

/// What the client sees of the base with these parts added.
#[track_caller]
fn promises(parts: &[&str]) -> String {
    Vector::new(parts).client("connect()\nprint(promises())")
}

#[test]
fn vector_01_reads_alone() {
    if client() {
        assert_eq!(promises(&[]), "read_only\n");
    }
}

#[test]
fn vector_02_with_pwrite_zeroes_but_no_fua() {
    if client() {
        assert_eq!(promises(&[PWRITE]), "zero fast_zero\n");
    }
}

#[test]
fn vector_03_with_flush_fua() {
    if client() {
        assert_eq!(promises(&[PWRITE, FLUSH]), "flush fua zero fast_zero\n");
    }
}

#[test]
fn vector_04_with_zero_no_fast_zero() {
    if client() {
        assert_eq!(promises(&[PWRITE, FLUSH, ZERO]), "flush fua zero\n");
    }
}

#[test]
fn vector_05_only_true_is_a_yes_and_anything_else_is_said() {
    if !client() {
        return;
    }
    for answer in ["1", "'yes'", "[1]", "None"] {
        let odd = format!("odd = {answer}\ndef can_write(h): return odd\n");
        let vector = Vector::new(&[PWRITE, &odd]);
        assert_eq!(
            vector.client("connect()\nprint(promises())"),
            "read_only\n",
            "{answer}"
        );
        vector.logged(&format!(
            "can_write: returned `{answer}`, which counts as False"
        ));
    }
}

#[test]
fn vector_06_can_fua_true_is_emulate() {
    if !client() {
        return;
    }
    let vector = Vector::new(&[PWRITE, FLUSH, "def can_fua(h): return True\n"]);
    assert_eq!(
        vector.client("connect()\nprint(told(h.pwrite, b'x' * 512, 0, FUA))"),
        "ok\n"
    );
    assert_eq!(vector.calls(), ["pwrite 512 0 0", "flush 0"]);
}

/// The export is refused, the reason is in the log, and the server goes on.
#[track_caller]
fn opening_is_refused(parts: &[&str], words: &str) {
    let vector = Vector::new(parts);
    let seen = vector.client("print(told(connect) != 'ok')");
    assert_eq!(seen, "True\n", "{parts:?}");
    vector.logged(words);
    let again = "h = nbd.NBD()\nprint(told(connect) != 'ok')";
    assert_eq!(vector.client(again), "True\n");
}

#[test]
fn vector_07_can_fua_of_another_type_refuses_the_client() {
    if !client() {
        return;
    }
    for answer in ["None", "'1'", "1.0", "-1"] {
        let odd = format!("odd = {answer}\ndef can_fua(h): return odd\n");
        let words = format!("can_fua: returned `{answer}`: a nbdkit.FUA_ constant is accepted");
        opening_is_refused(&[PWRITE, FLUSH, &odd], &words);
    }
}

#[test]
fn vector_08_emulated_fua_needs_flush() {
    if client() {
        opening_is_refused(
            &[PWRITE, "def can_fua(h): return nbdkit.FUA_EMULATE\n"],
            "can_fua: returned FUA_EMULATE, but there is no `flush` to emulate it with",
        );
    }
}

#[test]
fn vector_20_trim_that_is_promised_and_missing_is_eio() {
    if !client() {
        return;
    }
    let vector = Vector::new(&[PWRITE, "def can_trim(h): return True\n"]);
    assert_eq!(
        vector.client("connect()\nprint(told(h.trim, 4096, 0))"),
        "EIO\n"
    );
    vector.logged("trim not implemented");
}

#[test]
fn vector_24_block_size_may_be_a_list_and_nothing_else_is_dropped_without_a_word() {
    if !client() {
        return;
    }
    let list = "def block_size(h): return [1, 4096, 65536]\n";
    let said = attach(&[PWRITE, list]);
    let warning = "block_size: returns the list";
    assert!(said.code == 0 && said.stderr.contains(warning), "{said:?}");
    let vector = Vector::new(&[PWRITE, list]);
    let sizes = "connect()\nprint(*[h.get_block_size(n) for n in range(3)])";
    assert_eq!(vector.client(sizes), "1 4096 65536\n");
    for answer in ["4096", "None", "(1, 4096)", "(1, 4096.0, 65536)"] {
        let odd = format!("odd = {answer}\ndef block_size(h): return odd\n");
        let words = format!("block_size: returned `{answer}`: ");
        opening_is_refused(&[PWRITE, &odd], &words);
    }
}

#[test]
fn vector_25_a_thread_model_that_is_none_is_said() {
    let odd = "odd = 'x'\ndef thread_model(): return odd\n";
    attach(&[odd]).refused("thread_model: returned `'x'`: one of the nbdkit.THREAD_MODEL_");
    attach(&["def thread_model(): return -1\n"]).refused("thread_model: returned `-1`");
}

#[test]
fn vector_26_api_versions_are_1_and_2() {
    for version in ["3", "0", "'2'", "2.0", "None"] {
        let words = format!("API_VERSION is `{version}`: versions 1 and 2 are supported");
        attach(&[&format!("API_VERSION = {version}\n")]).refused(&words);
    }
}

#[test]
fn vector_27_native_fua_of_version_1_is_flushed() {
    if !client() {
        return;
    }
    let v1 = "
API_VERSION = 1
def pread(h, count, offset): return disk[offset:offset + count]
def pwrite(h, buf, offset): note('pwrite', len(buf), offset)
def flush(h): note('flush')
def can_fua(h): return nbdkit.FUA_NATIVE
";
    let vector = Vector(Server::of_script(&format!("{BASE}{v1}"), &[]));
    assert_eq!(
        vector.client("connect()\nprint(told(h.pwrite, b'x' * 512, 512, FUA))"),
        "ok\n"
    );
    assert_eq!(vector.calls(), ["pwrite 512 512", "flush"]);
}
