//! Random bytes from the operating system.

use ring::rand::{SecureRandom as _, SystemRandom};

/// `N` random bytes. The operating system's generator does not fail once it is
/// seeded; if it ever does, there is no safe way to go on.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives random bytes");
    bytes
}
