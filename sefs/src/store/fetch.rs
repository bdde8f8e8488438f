//! Reads under way: blocks are asked for before the reader gets to them, if the backend works on them meanwhile.
//!
//! A request is cut into parts, each within a chunk. While one part is opened, the next ones are on their way; of a file that
//! is read from front to back, those that follow the request too. What is kept from one request to the next is ciphertext as the
//! host gave it, at most [`DEPTH`] parts for each of a few readers.
//!
//! *Invariants*
//! 1. A part counts only for blocks that are, when they are wanted, still where they were when it was asked for: epoch, nonce and
//!    proof are compared. So no pin is kept while nobody reads, and nothing has to be told of writes.
//! 2. What a part does not give, for whatever reason, is read anew, and that reading says what is wrong. Nothing is believed
//!    here that is not authenticated.
//! 3. A request to the backend is always waited for, also when nobody wants its answer any more.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::backend::{Backend, Batch, Io, Ticket};
use crate::error::Result;
use crate::format::BlockLoc;
use crate::store::Store;
use crate::store::read::{Block, contiguous};
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, CHUNK_BLOCKS, ObjectId};
use crate::workers;

/// Parts of one reader that are under way together: 1 MiB.
const DEPTH: usize = 4;
/// Readers that are remembered.
const STREAMS: usize = 8;
/// Readers for which something is kept. A backend may have little that works meanwhile, and others need it too.
const MOST_AHEAD: usize = 2;
/// Who read on so often is reading from front to back: one request of a caller can be up to three here.
const READS_ON: u32 = 3;
/// After so many requests of others, what is kept for a reader may go.
const OLD: u64 = 64;

/// Who reads, and what is on its way to them.
pub(super) struct Streams {
    known: Mutex<Known>,
    most_ahead: usize,
}

#[derive(Default)]
struct Known {
    streams: VecDeque<Stream>,
    /// Requests so far.
    requests: u64,
}

/// Someone who reads an object from front to back. While a request runs, its stream stays in the list without its parts, and
/// leads to where the request will end: whoever goes on there meanwhile is another thread of the same reader.
struct Stream {
    object: ObjectId,
    /// Where the next request begins if they go on.
    next_block: u64,
    /// How often they went on; [`u32::MAX`] for one whose requests overlap: they are ahead of themselves.
    went_on: u32,
    runs: bool,
    /// The request that was the last.
    seen: u64,
    parts: VecDeque<Part>,
}

/// Some blocks of a chunk, and what was asked for of them.
struct Part {
    blocks: Range<u64>,
    stretches: Vec<Stretch>,
}

/// Blocks of one image, in one batch.
struct Stretch {
    source: u8,
    runs: Vec<Run>,
    answer: Answer,
}

/// Blocks that stand side by side: one request of the batch.
struct Run {
    first_block: u64,
    locs: Vec<BlockLoc>,
}

/// What the backend was asked for, and says when it is waited for.
struct Answer {
    backend: Arc<dyn Backend>,
    ticket: Option<Ticket>,
    batch: Batch,
}

impl Streams {
    /// With little memory, nothing is kept for more than one reader.
    pub(super) fn new(memory_bytes: usize) -> Streams {
        Streams { known: Mutex::default(), most_ahead: (memory_bytes >> 24).clamp(1, MOST_AHEAD) }
    }

    /// The stream of a request for some blocks, with what is on its way.
    fn begin(&self, object: ObjectId, blocks: &Range<u64>) -> Stream {
        let mut known = self.known.lock();
        known.requests += 1;
        let seen = known.requests;
        let fresh = Stream { object, next_block: blocks.end, went_on: 0, runs: true, seen, parts: VecDeque::new() };
        let at = known.streams.iter().position(|stream| stream.is_at(object, blocks.start));
        let Some(stream) = at.and_then(|at| known.streams.get_mut(at)) else {
            if known.streams.len() >= STREAMS {
                let idle = known.streams.iter().position(|stream| stream.parts.is_empty());
                known.streams.remove(idle.unwrap_or(0));
            }
            known.streams.push_back(Stream { parts: VecDeque::new(), ..fresh });
            return fresh;
        };
        let went_on = if stream.runs { u32::MAX } else { stream.went_on.saturating_add(1) };
        let parts = core::mem::take(&mut stream.parts);
        *stream = Stream { went_on, ..fresh };
        Stream { object, next_block: blocks.end, went_on, runs: true, seen, parts }
    }

    /// The request is over. What is on its way is kept if there is room for it, and if nobody has gone on meanwhile.
    fn end(&self, mut stream: Stream) {
        let mut known = self.known.lock();
        let old = known.requests.saturating_sub(OLD);
        let others = |known: &Known| known.streams.iter().filter(|stream| !stream.parts.is_empty()).count();
        let mut forgotten = VecDeque::new();
        if !stream.parts.is_empty() && others(&known) >= self.most_ahead {
            let aged = known.streams.iter_mut().find(|other| !other.parts.is_empty() && other.seen <= old);
            match aged {
                Some(aged) => forgotten = core::mem::take(&mut aged.parts),
                None => forgotten = core::mem::take(&mut stream.parts),
            }
        }
        let kept = known.streams.iter_mut().find(|other| other.runs && other.is_at(stream.object, stream.next_block));
        let parts = match kept {
            Some(kept) => {
                kept.runs = false;
                core::mem::replace(&mut kept.parts, stream.parts)
            }
            None => stream.parts,
        };
        drop(known);
        // Waits for the backend, which nobody else has to.
        drop((forgotten, parts));
    }
}

impl Store {
    /// Reads whole blocks of an object; holes and unwritten blocks are zeros.
    pub(crate) fn read_blocks(&self, object: ObjectId, first_block: u64, out: &mut [u8]) -> Result<()> {
        if !self.backend.works_meanwhile() {
            let read = |(block, out): (u64, &mut [u8])| self.read_in_chunk(object, block, out);
            let small = out.len() <= CHUNK_BLOCKS as usize * BLOCK_SIZE;
            let mut parts = Parts::of(first_block, out);
            return match small || self.workers.count() <= 1 {
                true => parts.try_for_each(read),
                false => workers::map(&*self.workers, parts.collect(), read).into_iter().collect(),
            };
        }
        let wanted = first_block..first_block + (out.len() / BLOCK_SIZE) as u64;
        let mut stream = self.streams.begin(object, &wanted);
        let goes_on = (READS_ON..u32::MAX).contains(&stream.went_on);
        let ask_to = wanted.end + if goes_on { DEPTH as u64 * CHUNK_BLOCKS } else { 0 };
        let read = Parts::of(first_block, out).try_for_each(|(block, out)| {
            stream.ask(self, block, ask_to);
            if stream.give(self, block, out)? { Ok(()) } else { self.read_in_chunk(object, block, out) }
        });
        stream.forget_below(wanted.end);
        self.streams.end(stream);
        read
    }
}

impl Stream {
    fn is_at(&self, object: ObjectId, block: u64) -> bool {
        (self.object, self.next_block) == (object, block)
    }

    fn forget_below(&mut self, block: u64) {
        while self.parts.front().is_some_and(|part| part.blocks.end <= block) {
            self.parts.pop_front();
        }
    }

    /// Asks for blocks from `block` on, as far as is not done yet, as far as may be, and up to where nothing is stored. What
    /// cannot be asked for is the business of who wants it.
    fn ask(&mut self, store: &Store, block: u64, end_block: u64) {
        self.forget_below(block);
        let mut next = self.parts.back().map_or(block, |part| part.blocks.end);
        while self.parts.len() < DEPTH && next < end_block {
            let end = end_block.min((next / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS);
            match Part::ask(store, self.object, next..end) {
                Ok(part) if !part.stretches.is_empty() => self.parts.push_back(part),
                Ok(_) | Err(_) => return,
            }
            next = end;
        }
    }

    /// Fills `out` with blocks of one chunk that were asked for; false if something else is needed too.
    fn give(&mut self, store: &Store, first_block: u64, out: &mut [u8]) -> Result<bool> {
        let wanted = first_block..first_block + (out.len() / BLOCK_SIZE) as u64;
        let Some(part) = self.parts.front_mut() else { return Ok(false) };
        if wanted.start < part.blocks.start || wanted.end > part.blocks.end {
            return Ok(false);
        }
        let (blocks, _pin) = store.resolve_some(self.object, wanted.start / CHUNK_BLOCKS, in_chunk(&wanted))?;
        let mut at = 0;
        while at < blocks.len() {
            let rest = &mut out[at * BLOCK_SIZE..];
            at += match &blocks[at] {
                Block::Stored(_) => match part.open(store, wanted.start + at as u64, &blocks[at..], rest) {
                    Some(opened) => opened,
                    None => return Ok(false),
                },
                Block::Absent | Block::Unwritten => {
                    rest[..BLOCK_SIZE].fill(0);
                    1
                }
                Block::Page(page) => {
                    rest[..BLOCK_SIZE].copy_from_slice(page);
                    1
                }
            };
        }
        Ok(true)
    }
}

impl Part {
    /// Hands what is stored of some blocks of one chunk to the backend.
    fn ask(store: &Store, object: ObjectId, wanted: Range<u64>) -> Result<Part> {
        let (blocks, _pin) = store.resolve_some(object, wanted.start / CHUNK_BLOCKS, in_chunk(&wanted))?;
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut at = 0;
        while at < blocks.len() {
            let Block::Stored(first) = &blocks[at] else {
                at += 1;
                continue;
            };
            let run = contiguous(&blocks[at..], *first);
            let source = first.source;
            if stretches.last().is_none_or(|stretch| stretch.source != source) {
                let backend = store.image_of(first)?.backend.clone();
                let answer = Answer { backend, ticket: None, batch: Vec::new() };
                stretches.push(Stretch { source, runs: Vec::new(), answer });
            }
            if let Some(stretch) = stretches.last_mut() {
                stretch.add(store.image_of(first)?, wanted.start + at as u64, &run);
            }
            at += run.len();
        }
        stretches.iter_mut().for_each(|stretch| stretch.answer.begin());
        Ok(Part { blocks: wanted, stretches })
    }

    /// Opens blocks from `block` on, as many as were asked for together and are still where they were; `None` if not even one.
    fn open(&mut self, store: &Store, block: u64, now: &[Block], out: &mut [u8]) -> Option<usize> {
        let stretch = self.stretches.iter_mut().find(|stretch| stretch.run_of(block).is_some())?;
        let index = stretch.run_of(block)?;
        let run = &stretch.runs[index];
        let from = usize::try_from(block - run.first_block).ok()?;
        let same = |(loc, now): (&BlockLoc, &Block)| matches!(now, Block::Stored(now) if now == loc);
        let count = run.locs[from..].iter().zip(now).take_while(|pair| same(*pair)).count();
        let locs = &run.locs[from..from + count];
        let host = stretch.answer.get(index)?.get(from * BLOCK_SIZE..(from + count) * BLOCK_SIZE)?;
        let sealer = &store.image_of(locs.first()?).ok()?.sealer;
        sealer.open_run(locs, host, &mut out[..count * BLOCK_SIZE]).ok().map(|()| count)
    }
}

impl Stretch {
    /// Adds blocks that stand side by side at home; some of them may still be in the log ring only.
    fn add(&mut self, image: &Store, first_block: u64, run: &[BlockLoc]) {
        for (addr, index) in image.pieces(run) {
            let buf = self.answer.backend.buffer(index.len() * BLOCK_SIZE);
            self.answer.batch.push(Io::Read { offset_bytes: addr.0 * BLOCK_SIZE_U64, buf });
            self.runs.push(Run { first_block: first_block + index.start as u64, locs: run[index].to_vec() });
        }
    }

    fn run_of(&self, block: u64) -> Option<usize> {
        let covers = |run: &Run| (run.first_block..run.first_block + run.locs.len() as u64).contains(&block);
        self.runs.iter().position(covers)
    }
}

impl Answer {
    /// What the backend refuses is asked for again by whoever wants it.
    fn begin(&mut self) {
        self.ticket = self.backend.submit(core::mem::take(&mut self.batch)).ok();
    }

    /// What came for a request of the batch.
    fn get(&mut self, index: usize) -> Option<&[u8]> {
        if let Some(ticket) = self.ticket.take() {
            self.batch = self.backend.wait(ticket).unwrap_or_default();
        }
        match self.batch.get(index)? {
            Io::Read { buf, .. } => Some(buf.bytes()),
            Io::Write { .. } => None,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let unseen = self.ticket.take().and_then(|ticket| self.backend.wait(ticket).ok());
        for Io::Read { buf, .. } | Io::Write { buf, .. } in
            unseen.into_iter().chain([core::mem::take(&mut self.batch)]).flatten()
        {
            self.backend.give_back(buf);
        }
    }
}

/// A request in parts that stay within a chunk.
struct Parts<'o> {
    block: u64,
    rest: &'o mut [u8],
}

impl<'o> Parts<'o> {
    fn of(first_block: u64, out: &'o mut [u8]) -> Parts<'o> {
        Parts { block: first_block, rest: out }
    }
}

impl<'o> Iterator for Parts<'o> {
    type Item = (u64, &'o mut [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let left = (CHUNK_BLOCKS - self.block % CHUNK_BLOCKS) as usize * BLOCK_SIZE;
        let rest = core::mem::take(&mut self.rest);
        let (part, later) = rest.split_at_mut(left.min(rest.len()));
        let block = self.block;
        (self.block, self.rest) = (block + (part.len() / BLOCK_SIZE) as u64, later);
        (!part.is_empty()).then_some((block, part))
    }
}

/// Blocks of an object that are of one chunk, as that chunk numbers them.
fn in_chunk(blocks: &Range<u64>) -> Range<u8> {
    let start = (blocks.start % CHUNK_BLOCKS) as u8;
    start..start + (blocks.end - blocks.start) as u8
}
