//! Random bytes from the kernel: getrandom(2).

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes, at most 256: the kernel gives so many whole. Early at boot the call waits until the kernel has gathered
/// enough randomness.
///
/// # Errors
/// Where the kernel has no such call, or a filter forbids it.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    fill(GetRandomFlags::empty())
}

/// As [`bytes`], but never waits, and gives zeros where the kernel gives nothing: for values that are better random and need not
/// be.
pub fn bytes_or_zeros<const N: usize>() -> [u8; N] {
    fill(GetRandomFlags::NONBLOCK).unwrap_or([0; N])
}

fn fill<const N: usize>(flags: GetRandomFlags) -> io::Result<[u8; N]> {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    let given = rustix::io::retry_on_intr(|| getrandom(&mut bytes, flags))?;
    if given == N { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_random_and_no_two_calls_give_the_same() {
        let (one, other) = (bytes::<16>().unwrap(), bytes_or_zeros::<16>());
        assert_ne!(one, other);
        assert!(one != [0; 16] && other != [0; 16]);
    }
}
