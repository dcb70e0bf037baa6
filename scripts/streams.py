"""The program's random streams (src/rng.rs) and dropout masks (src/ops/random.rs), written from their definitions.

A stream is ChaCha8, seeded by a hash of (seed, purpose, index). What the rand crate makes of its words stands here too.
Needs numpy.
"""

import numpy as np

M32, M64 = 2**32 - 1, 2**64 - 1
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_AND_DIAGONALS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def blake3(message):
    """The first eight bytes of BLAKE3 of at most 64 bytes: one block that is first, last and root."""
    assert len(message) <= 64, message
    words = [int.from_bytes(message.ljust(64, b"\0")[4 * i : 4 * i + 4], "little") for i in range(16)]
    v = [*IV, *IV[:4], 0, 0, len(message), 1 | 2 | 8]
    right = lambda x, n: (x >> n | x << 32 - n) & M32
    for _ in range(7):
        for k, (a, b, c, d) in enumerate(COLUMNS_AND_DIAGONALS):
            for word, r, s in ((words[2 * k], 16, 12), (words[2 * k + 1], 8, 7)):
                v[a] = v[a] + v[b] + word & M32
                v[d] = right(v[d] ^ v[a], r)
                v[c] = v[c] + v[d] & M32
                v[b] = right(v[b] ^ v[c], s)
        words = [words[at] for at in ORDER]
    return (v[0] ^ v[8]) | (v[1] ^ v[9]) << 32


def stream_seed(seed, purpose, index):
    return blake3(seed.to_bytes(8, "little") + index.to_bytes(8, "little") + purpose.encode())


def key_words(state):
    """The 32 bytes that `seed_from_u64` makes of 8, as words: PCG32."""
    words = []
    for _ in range(8):
        state = state * 6364136223846793005 + 11634580027462260723 & M64
        x, turn = (state >> 18 ^ state) >> 27 & M32, state >> 59
        words.append((x >> turn | x << 32 - turn) & M32)
    return words


class Stream:
    """The stream (seed, purpose, index)."""

    def __init__(self, seed, purpose, index):
        self.key, self.at = key_words(stream_seed(seed, purpose, index)), 0

    def words(self, count):
        """The next `count` words of 32 bits."""
        first, last = self.at // 16, (self.at + count - 1) // 16 + 1
        counter = np.arange(first, last, dtype=np.uint64)
        fixed = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *self.key]
        start = [np.full(len(counter), word, dtype=np.uint32) for word in fixed]
        zero = np.zeros(len(counter), dtype=np.uint32)
        start += [counter.astype(np.uint32), (counter >> np.uint64(32)).astype(np.uint32), zero, zero]
        v = [word.copy() for word in start]
        left = lambda x, n: x << np.uint32(n) | x >> np.uint32(32 - n)
        for _ in range(4):
            for a, b, c, d in COLUMNS_AND_DIAGONALS:
                for r, s in ((16, 12), (8, 7)):
                    v[a] = v[a] + v[b]
                    v[d] = left(v[d] ^ v[a], r)
                    v[c] = v[c] + v[d]
                    v[b] = left(v[b] ^ v[c], s)
        blocks = np.stack([x + y for x, y in zip(v, start)], 1).ravel()
        found = blocks[self.at - 16 * first :][:count]
        self.at += count
        return found

    def doubles(self, count):
        """Numbers in [0, 1) of 53 bits."""
        pairs = self.words(2 * count).reshape(-1, 2).astype(np.uint64)
        return ((pairs[:, 0] | pairs[:, 1] << np.uint64(32)) >> np.uint64(11)) * 2.0**-53

    def normal(self, *shape):
        """Standard normal numbers in single precision: Box and Muller's pairs."""
        count = int(np.prod(shape))
        u, v = self.doubles(2 * ((count + 1) // 2)).reshape(-1, 2).T
        radius = np.sqrt(-2 * np.log(1 - u))
        pairs = np.stack([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)], 1)
        return pairs.ravel()[:count].astype(np.float32).reshape(shape)

    def below(self, end):
        """A whole number in 0..end, by Canon's method."""
        product = int(self.words(1)[0]) * end
        whole, rest = product >> 32, product & M32
        if rest > 2**32 - end:
            whole += rest + (int(self.words(1)[0]) * end >> 32) > M32
        return whole

    def between(self, low, high):
        """A double in low..high, of 52 bits."""
        low_word, high_word = (int(word) for word in self.words(2))
        return ((high_word << 32 | low_word) >> 12) * 2.0**-52 * (high - low) + low

    def singles_between(self, low, high, count):
        """Singles in low..high, of 23 bits."""
        low, high = np.float32(low), np.float32(high)
        return (self.words(count) >> np.uint32(9)).astype(np.float32) * np.float32(2.0**-23) * (high - low) + low


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def dropout(seed, draw, count, p):
    """The factors of the first plane of the `draw`-th mask of a tape: 0, or 1/(1 - p)."""
    key = mix(seed ^ mix(draw + 0x9E3779B97F4A7C15 & M64))
    key = np.uint32(mix(key) & M32)
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ key
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x21F0AAAD)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0xD35A2D97)
    x ^= x >> np.uint32(15)
    return np.where(x <= np.uint32(int((1 - p) * 2**32) - 1), 1 / (1 - p), 0.0)
