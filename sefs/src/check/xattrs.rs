//! Extended attributes: their parts, their places, and what their inode says of them.

use alloc::vec::Vec;

use super::{Finding, Report};
use crate::format::{Inode, XATTR_PART_LEN, XattrHead, xattr_key};
use crate::suite::Suite;
use crate::types::InodeNo;

/// The inode's extension that sums its attributes up: {flags u32, count u32, bytes of names with their ends u32}.
pub(crate) const SUMMARY_EXTENSION: u16 = 1;
const FLAGS: [(&[u8], u32); 3] =
    [(b"system.posix_acl_access", 1), (b"system.posix_acl_default", 2), (b"security.capability", 4)];
/// An attribute key: 48 bits of hash, discriminator, part.
const PART_MASK: u64 = 0xff;
const HASH_SHIFT: u32 = 16;

/// An inode's attributes as far as they were seen.
#[derive(Default)]
pub(super) struct Xattrs {
    /// The attribute whose parts are being seen: its key, the next part, and the bytes that are to come.
    open: Option<(u64, u64, usize)>,
    /// The names that share the hash of the last one.
    names: (u64, Vec<Vec<u8>>),
    summary: [u32; 3],
}

impl Xattrs {
    /// The next record, in key order.
    pub(super) fn record(
        &mut self,
        suite: &dyn Suite,
        ino: InodeNo,
        key: u64,
        value: &[u8],
        report: &mut Report<'_>,
    ) -> Result<(), &'static str> {
        let part = key & PART_MASK;
        if part == 0 {
            self.end_parts(ino, report);
            let head = XattrHead::decode(value)?;
            self.head(suite, ino, key, &head, report);
            return Ok(());
        }
        match &mut self.open {
            Some((open, next, left)) if *open == key - part && *next == part => {
                if value.len() == (*left).min(XATTR_PART_LEN) && *left > 0 {
                    *left -= value.len();
                    *next += 1;
                } else {
                    self.open = None;
                    report.found(Finding::XattrParts { ino, key });
                }
            }
            _ => report.found(Finding::XattrParts { ino, key }),
        }
        Ok(())
    }

    fn head(&mut self, suite: &dyn Suite, ino: InodeNo, key: u64, head: &XattrHead, report: &mut Report<'_>) {
        let len = usize::try_from(head.value_len).unwrap_or(usize::MAX);
        self.open = Some((key, 1, len.saturating_sub(head.first.len())));
        let hash = key >> HASH_SHIFT;
        if xattr_key(suite, &head.name, 0, 0) >> HASH_SHIFT != hash {
            report.found(Finding::XattrHash { ino, key });
        }
        if self.names.0 != hash {
            self.names = (hash, Vec::new());
        }
        if self.names.1.contains(&head.name) {
            report.found(Finding::XattrTwice { ino, key });
        }
        self.names.1.push(head.name.clone());
        let flag = FLAGS.iter().find(|(name, _)| *name == head.name).map_or(0, |(_, flag)| *flag);
        let listed = u32::try_from(head.name.len()).unwrap_or(u32::MAX).saturating_add(1);
        let [flags, count, bytes] = self.summary;
        self.summary = [flags | flag, count.saturating_add(1), bytes.saturating_add(listed)];
    }

    fn end_parts(&mut self, ino: InodeNo, report: &mut Report<'_>) {
        if let Some((key, _, left)) = self.open.take()
            && left > 0
        {
            report.found(Finding::XattrParts { ino, key });
        }
    }

    /// No more attributes follow. `stated` is what the inode says.
    pub(super) fn finish(mut self, ino: InodeNo, stated: Option<[u32; 3]>, report: &mut Report<'_>) {
        self.end_parts(ino, report);
        let found = (self.summary[1] > 0).then_some(self.summary);
        if stated != found {
            let [flags, count, bytes] = self.summary;
            report.found(Finding::XattrSummary { ino, flags, count, bytes });
        }
    }
}

/// What an inode says of its attributes; nonsense counts as an impossible summary.
pub(super) fn stated(inode: &Inode) -> Option<[u32; 3]> {
    let (_, bytes) = inode.extensions.iter().find(|(kind, _)| *kind == SUMMARY_EXTENSION)?;
    let nonsense = Some([u32::MAX; 3]);
    match bytes.as_chunks::<4>() {
        ([flags, count, names], []) => Some([flags, count, names].map(|field| u32::from_le_bytes(*field))),
        _ => nonsense,
    }
}
