//! The promises of a backend, on files; and what a ring adds: batches longer than it, many threads, short transfers.

use std::os::unix::fs::FileExt;
use std::path::Path;

use sefs::backend::{Backend, BackendOperation, HostBuf, Io, Ticket};

use super::*;

const LEN_BYTES: u64 = 8 << 20;

fn backend(folder: &Path, direct: bool) -> UringBackend {
    let path = folder.join("image");
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(LEN_BYTES).unwrap();
    UringBackend::new(file, direct).unwrap()
}

/// Temporary folders may stand in memory, which knows no direct I/O; the target folder stands on a disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn filled(backend: &UringBackend, len_bytes: usize, byte: u8) -> HostBuf {
    let mut buf = backend.buffer(len_bytes);
    buf.bytes_mut().fill(byte);
    buf
}

fn page(number: u64) -> u8 {
    (number % 251) as u8 + 1
}

#[test]
fn a_long_request_past_the_page_cache_goes_on_while_its_caller_does_something_else() {
    for (direct, len_bytes) in [(true, LONG_BYTES), (true, 4096), (false, LONG_BYTES)] {
        let place = folder();
        let backend = backend(place.path(), direct);
        let io = Io::Write { offset_bytes: 4096, buf: filled(&backend, len_bytes, 9) };
        let ticket = backend.submit(vec![io]).unwrap();
        assert_eq!(matches!(ticket, Ticket::Pending(_)), direct && len_bytes == LONG_BYTES);
        assert_eq!(backend.works_meanwhile(), direct);
        backend.wait(ticket).unwrap();
        assert!(backend.read_at(4096, len_bytes).unwrap().bytes().iter().all(|byte| *byte == 9));
    }
}

#[test]
fn batches_longer_than_a_ring_come_back_in_order() {
    for direct in [false, true] {
        let place = folder();
        let backend = backend(place.path(), direct);
        let count = u64::from(DEPTH) * 3 + 5;
        let writes = (0..count)
            .map(|number| Io::Write { offset_bytes: number * 8192, buf: filled(&backend, 4096, page(number)) })
            .collect();
        let ticket = backend.submit(writes).unwrap();
        assert!(matches!(ticket, Ticket::Pending(_)), "a batch goes through a ring");
        assert_eq!(backend.wait(ticket).unwrap().len() as u64, count);
        backend.flush().unwrap();
        let reads =
            (0..count).map(|number| Io::Read { offset_bytes: number * 8192, buf: backend.buffer(8192) }).collect();
        let read = backend.wait(backend.submit(reads).unwrap()).unwrap();
        for (number, io) in read.into_iter().enumerate() {
            let Io::Read { offset_bytes, buf } = io else { panic!("a read comes back as a write") };
            assert_eq!(offset_bytes, number as u64 * 8192);
            assert!(buf.bytes()[..4096].iter().all(|byte| *byte == page(number as u64)));
            assert!(buf.bytes()[4096..].iter().all(|byte| *byte == 0));
            backend.give_back(buf);
        }
        assert_eq!(unpoisoned(&backend.rings).made, 1);
    }
}

#[test]
fn a_buffer_that_came_back_is_lent_again() {
    for direct in [false, true] {
        let place = folder();
        let backend = backend(place.path(), direct);
        backend.give_back(filled(&backend, 16_384, 5));
        assert_eq!(backend.buffer(16_384).bytes(), [5; 16_384]);
    }
}

#[test]
fn a_request_alone_and_buffers_that_do_not_fit_do_without_a_ring() {
    for direct in [false, true] {
        let place = folder();
        let backend = backend(place.path(), direct);
        let mut odd = HostBuf::aligned(8192 + 512, 4096);
        odd.bytes_mut().fill(9);
        let ticket = backend.submit(vec![Io::Write { offset_bytes: 4096, buf: filled(&backend, 4096, 7) }]).unwrap();
        assert!(matches!(ticket, Ticket::Done(_)));
        // Ordinary memory stands anywhere.
        let unaligned =
            || (0..).map(|_| HostBuf::zeroed(4096)).find(|buf| buf.bytes().as_ptr().addr() % 4096 != 0).unwrap();
        let batch = (0..2).map(|number| Io::Read { offset_bytes: number * 4096, buf: unaligned() }).collect();
        let batch = backend.wait(backend.submit(batch).unwrap()).unwrap();
        assert!(matches!(&batch[..], [Io::Read { buf: first, .. }, Io::Read { buf: second, .. }]
            if first.bytes() == [0; 4096] && second.bytes() == [7; 4096]));
        let mut buf = unaligned();
        buf.bytes_mut().fill(5);
        backend.write_at(0, buf).unwrap();
        assert_eq!(backend.read_at(0, 4096).unwrap().bytes(), [5; 4096]);
    }
}

#[test]
fn failures_say_which_request_it_was() {
    let place = folder();
    let backend = backend(place.path(), false);
    let past = vec![
        Io::Read { offset_bytes: 0, buf: backend.buffer(4096) },
        Io::Read { offset_bytes: LEN_BYTES - 2048, buf: backend.buffer(4096) },
        Io::Read { offset_bytes: 4096, buf: backend.buffer(4096) },
    ];
    let failure = backend.submit(past).and_then(|ticket| backend.wait(ticket)).map(drop).unwrap_err();
    assert_eq!((failure.operation, failure.offset_bytes), (BackendOperation::ShortRead, LEN_BYTES - 2048));

    let read_only = UringBackend::new(File::open(place.path().join("image")).unwrap(), false).unwrap();
    let writes = (0..2).map(|number| Io::Write { offset_bytes: number * 4096, buf: read_only.buffer(4096) }).collect();
    let failure = read_only.submit(writes).and_then(|ticket| read_only.wait(ticket)).map(drop).unwrap_err();
    assert_eq!((failure.operation, failure.errno), (BackendOperation::Write, Errno::EBADF as i32));
    assert!(read_only.wait(Ticket::Pending(77)).is_err(), "another backend's ticket");
}

#[test]
fn many_threads_have_batches_under_way() {
    let place = folder();
    let backend = backend(place.path(), false);
    let threads = MOST_RINGS as u64 * 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let backend = &backend;
            scope.spawn(move || {
                for round in 0..50 {
                    let at = |number: u64| (thread * 16 + number) * 4096;
                    let byte = page(thread * 50 + round);
                    let writes =
                        (0..16).map(|number| Io::Write { offset_bytes: at(number), buf: filled(backend, 4096, byte) });
                    let ticket = backend.submit(writes.collect()).unwrap();
                    std::thread::yield_now();
                    backend.wait(ticket).unwrap().into_iter().for_each(|io| {
                        let (Io::Read { buf, .. } | Io::Write { buf, .. }) = io;
                        backend.give_back(buf);
                    });
                    let read = backend.read_at(at(0), 16 * 4096).unwrap();
                    assert!(read.bytes().iter().all(|found| *found == byte));
                }
            });
        }
    });
    let rings = unpoisoned(&backend.rings);
    assert!(rings.made <= MOST_RINGS && rings.idle.len() == rings.made, "every ring came back");
}

#[test]
fn a_backend_that_is_dropped_waits_for_what_is_under_way() {
    let place = folder();
    let written = backend(place.path(), true);
    let writes = (0..64).map(|number| Io::Write { offset_bytes: number * 65_536, buf: filled(&written, 65_536, 3) });
    let ticket = written.submit(writes.collect()).unwrap();
    assert!(matches!(ticket, Ticket::Pending(_)));
    drop(written);
    let mut bytes = vec![0; 64 * 65_536];
    File::open(place.path().join("image")).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 3));
}
