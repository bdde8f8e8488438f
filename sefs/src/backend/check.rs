//! What every backend promises, as a test that each of them runs.

use alloc::vec;
use alloc::vec::Vec;

use super::{Backend, BackendOperation, HostBuf, Io};

fn filled(len_bytes: usize, byte: u8) -> HostBuf {
    let mut buf = HostBuf::zeroed(len_bytes);
    buf.bytes_mut().fill(byte);
    buf
}

fn filled_of(backend: &dyn Backend, len_bytes: usize, byte: u8) -> HostBuf {
    let mut buf = backend.buffer(len_bytes);
    buf.bytes_mut().fill(byte);
    buf
}

fn read(backend: &dyn Backend, offset_bytes: u64, len_bytes: usize) -> Vec<u8> {
    backend.read_at(offset_bytes, len_bytes).unwrap().bytes().to_vec()
}

/// Checks a backend of 1 MiB of zeros.
pub(super) fn check_promises(backend: &dyn Backend) {
    let len_bytes = backend.len_bytes().unwrap();
    assert_eq!(len_bytes, 1 << 20);
    assert_eq!(read(backend, 0, 1 << 20), vec![0; 1 << 20]);

    // Across every kind of border inside.
    backend.write_at(61_440, filled(139_264, 1)).unwrap();
    backend.write_at(65_536, filled(4_096, 2)).unwrap();
    let expected = [vec![0; 4_096], vec![1; 4_096], vec![2; 4_096], vec![1; 131_072], vec![0; 4_096]].concat();
    assert_eq!(read(backend, 57_344, expected.len()), expected);

    // A batch comes back with its buffers, in order.
    let batch = vec![
        Io::Write { offset_bytes: 0, buf: filled(4_096, 3) },
        Io::Read { offset_bytes: 65_536, buf: HostBuf::zeroed(4_096) },
    ];
    let done = backend.wait(backend.submit(batch).unwrap()).unwrap();
    assert!(matches!(&done[..], [Io::Write { .. }, Io::Read { buf, .. }] if buf.bytes() == [2; 4_096]));
    backend.flush().unwrap();

    // A buffer that was given back is lent again; a new one would be of zeros.
    backend.give_back(filled_of(backend, 16_384, 5));
    assert_eq!(backend.buffer(16_384).bytes(), [5; 16_384], "a buffer that came back is thrown away");

    // Past the end is an error that says where, never zeros, and nothing grows by writing a little before the end.
    for offset_bytes in [len_bytes - 2_048, len_bytes, i64::MAX as u64 - 8_191] {
        let failure = backend.read_at(offset_bytes, 4_096).map(drop).unwrap_err();
        assert_eq!((failure.operation, failure.offset_bytes), (BackendOperation::ShortRead, offset_bytes));
    }
    assert_eq!(backend.len_bytes(), Ok(len_bytes));

    backend.discard(131_072, 65_536).unwrap();
    assert_eq!(read(backend, 126_976, 4_096), [1; 4_096], "what lies beside a discarded range stays");
    assert_eq!(read(backend, 196_608, 4_096), [1; 4_096]);

    backend.grow(2 << 20).unwrap();
    backend.grow(1 << 20).unwrap();
    assert_eq!(backend.len_bytes(), Ok(2 << 20), "growing never shrinks");
    assert_eq!(read(backend, (2 << 20) - 4_096, 4_096), [0; 4_096]);
    assert_eq!(read(backend, 0, 4_096), [3; 4_096]);
}
