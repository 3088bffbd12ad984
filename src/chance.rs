//! Random numbers of tests, which a run can repeat: `PYDISK_SEED` sets the seed, and each test prints its own.

/// A generator for a test, whose seed is printed.
pub(crate) fn random() -> fastrand::Rng {
    let set = std::env::var("PYDISK_SEED").ok();
    let seed = set.map_or_else(
        || fastrand::u64(..),
        |seed| seed.parse().expect("PYDISK_SEED is a number"),
    );
    #[expect(clippy::print_stdout, reason = "a failure is repeated with it")]
    {
        println!("PYDISK_SEED={seed}");
    }
    fastrand::Rng::with_seed(seed)
}
