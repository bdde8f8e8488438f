//! Bytes to values and back: total functions, no I/O, no cryptography beyond digests.
