//! Lets the binary find the libpython it was linked with, also where that is not in the loader's
//! path (pyenv, a prefix of one's own), and know which version that is.

fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
    let version = pyo3_build_config::get().version();
    println!(
        "cargo::rustc-env=PYDISK_PYTHON={}.{}",
        version.major, version.minor
    );
}
