//! What stands beside the figures: the cipher with the copies that trust demands, memcpy, and the bare backend.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sefs::backend::{Backend, BackendError, Io};
use sefs::error::Error;
use sefs::suite::{Aead, SecretKey, Suite, Tag};

use crate::Outcome;
use crate::place::{Clock, Dice, content, on_threads};

const BLOCK: usize = 4096;

/// A share of the work for each thread: calls of `call` bytes, `bytes` in all.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) bytes: u64,
    pub(crate) call: u64,
    pub(crate) threads: u64,
    pub(crate) clock: Clock,
}

impl Load {
    pub(crate) fn calls_of_thread(&self) -> u64 {
        self.bytes / self.threads / self.call
    }

    pub(crate) fn total(&self) -> u64 {
        self.calls_of_thread() * self.threads * self.call
    }

    fn call_len(&self) -> usize {
        usize::try_from(self.call).unwrap_or(usize::MAX)
    }
}

/// Outcome of a call to a bare backend.
pub(crate) fn bare<T>(result: Result<T, BackendError>) -> Outcome<T> {
    Ok(result.map_err(Error::from)?)
}

fn nonce(block: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&block.to_be_bytes());
    nonce
}

/// Host memory for a thread's share of the work, in use already: what is copied has its own place there, as in a volume.
fn host_memory(load: Load) -> Outcome<Vec<u8>> {
    Ok(vec![0x5a; usize::try_from(load.calls_of_thread() * load.call)?])
}

/// Seals each block in memory of our own and copies it to its place in memory that a host would see.
pub(crate) fn seal(suite: &dyn Suite, load: Load) -> Outcome<(u64, Duration)> {
    let aead = suite.aead(&SecretKey::new([1; 32]));
    let aead: &dyn Aead = &*aead;
    let hosts = (0..load.threads).map(|_| host_memory(load).map(Mutex::new)).collect::<Outcome<Vec<_>>>()?;
    let time = on_threads(load.clock, load.threads, |thread| {
        let plain = content(load.call_len());
        let mut host = hosts[usize::try_from(thread)?].lock().map_err(|_| "a thread panicked")?;
        let (mut own, mut block) = ([0; BLOCK], thread << 32);
        for host in host.chunks_exact_mut(load.call_len()) {
            for (plain, host) in plain.chunks_exact(BLOCK).zip(host.chunks_exact_mut(BLOCK)) {
                aead.seal(&nonce(block), b"sef", plain, &mut own);
                host.copy_from_slice(&own);
                block += 1;
            }
            std::hint::black_box(&host);
        }
        Ok(())
    })?;
    Ok((load.total(), time))
}

/// Copies each block out of its place in memory that a host would see, and verifies and opens it where it was wanted.
pub(crate) fn open(suite: &dyn Suite, load: Load) -> Outcome<(u64, Duration)> {
    let aead = suite.aead(&SecretKey::new([1; 32]));
    let aead: &dyn Aead = &*aead;
    let plain = content(load.call_len());
    let mut call = plain.clone();
    let tags: Vec<Tag> = call
        .chunks_exact_mut(BLOCK)
        .zip(plain.chunks_exact(BLOCK))
        .zip(0..)
        .map(|((sealed, plain), index)| aead.seal(&nonce(index), b"sef", plain, sealed))
        .collect();
    let mut host = host_memory(load)?;
    host.chunks_exact_mut(call.len()).for_each(|place| place.copy_from_slice(&call));
    let time = on_threads(load.clock, load.threads, |_| {
        let mut out = vec![0; load.call_len()];
        for host in host.chunks_exact(load.call_len()) {
            let blocks = host.chunks_exact(BLOCK).zip(out.chunks_exact_mut(BLOCK));
            for ((host, out), (index, tag)) in blocks.zip((0..).zip(&tags)) {
                out.copy_from_slice(host);
                aead.open(&nonce(index), b"sef", out, tag).map_err(|_| "the cipher does not open what it sealed")?;
            }
            std::hint::black_box(&mut out);
        }
        Ok(())
    })?;
    Ok((load.total(), time))
}

/// Copies from one buffer to another.
pub(crate) fn copy(load: Load) -> Outcome<(u64, Duration)> {
    let time = on_threads(load.clock, load.threads, |_| {
        let (from, mut to) = (content(load.call_len()), vec![0; load.call_len()]);
        for _ in 0..load.calls_of_thread() {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        Ok(())
    })?;
    Ok((load.total(), time))
}

/// Where the bare backend is worked on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    OneAfterTheOther,
    AtRandom,
}

/// The place of call `at` of a thread; each thread has its own part.
fn offset(load: Load, order: Order, dice: &mut Dice, thread: u64, at: u64) -> u64 {
    let at = if order == Order::AtRandom { dice.below(load.calls_of_thread()) } else { at };
    (thread * load.calls_of_thread() + at) * load.call
}

/// Writes to the bare backend, each call out of the same buffer, and flushes.
pub(crate) fn raw_write(backend: &Arc<dyn Backend>, load: Load, order: Order) -> Outcome<(u64, Duration)> {
    let time = on_threads(load.clock, load.threads, |thread| {
        let mut buf = backend.buffer(load.call_len());
        buf.bytes_mut().copy_from_slice(&content(load.call_len()));
        let mut dice = Dice::new(thread);
        for at in 0..load.calls_of_thread() {
            let offset_bytes = offset(load, order, &mut dice, thread, at);
            let ticket = bare(backend.submit(vec![Io::Write { offset_bytes, buf }]))?;
            match bare(backend.wait(ticket))?.pop() {
                Some(Io::Write { buf: back, .. }) => buf = back,
                _ => return Err("the backend kept a buffer".into()),
            }
        }
        bare(backend.flush())
    })?;
    Ok((load.total(), time))
}

/// Reads from the bare backend, each call into the same buffer.
pub(crate) fn raw_read(backend: &Arc<dyn Backend>, load: Load, order: Order) -> Outcome<(u64, Duration)> {
    let time = on_threads(load.clock, load.threads, |thread| {
        let mut buf = backend.buffer(load.call_len());
        let mut dice = Dice::new(thread);
        for at in 0..load.calls_of_thread() {
            let offset_bytes = offset(load, order, &mut dice, thread, at);
            let ticket = bare(backend.submit(vec![Io::Read { offset_bytes, buf }]))?;
            match bare(backend.wait(ticket))?.pop() {
                Some(Io::Read { buf: back, .. }) => buf = back,
                _ => return Err("the backend kept a buffer".into()),
            }
        }
        Ok(())
    })?;
    Ok((load.total(), time))
}

/// Requests of 1 MiB one after the other, eight of them under way at a time, and a flush after writes: what a disk can do.
pub(crate) fn deep(backend: &Arc<dyn Backend>, load: Load, writes: bool) -> Outcome<(u64, Duration)> {
    const CALL: u64 = 1 << 20;
    const DEPTH: usize = 8;
    let load = Load { call: CALL, threads: 1, ..load };
    let time = on_threads(load.clock, 1, |_| {
        let mut under_way = VecDeque::new();
        for at in 0..load.calls_of_thread() {
            let mut buf = match (under_way.len() == DEPTH).then(|| under_way.pop_front()).flatten() {
                None => backend.buffer(load.call_len()),
                Some(ticket) => match bare(backend.wait(ticket))?.pop() {
                    Some(Io::Read { buf, .. } | Io::Write { buf, .. }) => buf,
                    None => return Err("the backend kept a buffer".into()),
                },
            };
            let offset_bytes = at * load.call;
            let io = if writes {
                buf.bytes_mut()[..8].copy_from_slice(&at.to_le_bytes());
                Io::Write { offset_bytes, buf }
            } else {
                Io::Read { offset_bytes, buf }
            };
            under_way.push_back(bare(backend.submit(vec![io]))?);
        }
        for ticket in under_way {
            bare(backend.wait(ticket))?;
        }
        if writes { bare(backend.flush()) } else { Ok(()) }
    })?;
    Ok((load.total(), time))
}
