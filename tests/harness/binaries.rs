//! Finds the product's programs beside the running test: `target/<profile>/`.

use std::path::PathBuf;

/// The program `name` of the same profile as this test.
///
/// # Panics
/// When it was not built, with the command that builds it.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    // target/<profile>/deps/<test>-<hash>
    let profile = test.ancestors().nth(2).expect("tests lie two folders below their profile");
    let program = profile.join(name);
    assert!(
        program.is_file(),
        "{} is not there: build the programs first with `cargo build --workspace --bins`, or use tests/run",
        program.display()
    );
    program
}
