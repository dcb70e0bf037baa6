//! Random streams: every random choice is drawn from a stream named by (seed, purpose, index), never from a
//! generator that is carried along. Resuming at step 1,000 therefore needs no saved generator state.

use rand::SeedableRng;
pub use rand_chacha::ChaCha8Rng;

/// The seed of the stream `(seed, purpose, index)`: the first eight bytes of a BLAKE3 hash of the three.
pub fn stream_seed(seed: u64, purpose: &str, index: u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&index.to_le_bytes());
    hash.update(purpose.as_bytes());
    let bytes = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&bytes.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The random stream `(seed, purpose, index)`.
pub fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(stream_seed(seed, purpose, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn streams_differ_in_each_part_and_repeat() {
        let first = stream(1, "noise", 2).next_u64();
        assert_eq!(first, stream(1, "noise", 2).next_u64(), "the same stream repeats");
        for other in [stream(2, "noise", 2), stream(1, "noise", 3), stream(1, "batch", 2)] {
            assert_ne!(first, other.clone().next_u64(), "another stream differs");
        }
    }
}
