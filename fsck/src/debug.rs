//! `debug.sefs`: looks inside a volume without mounting it, and changes no byte of it, but for `upgrade`; `commit` writes another image.

mod compare;
mod layout;
mod upgrade;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sefs::error::{Error, Posix};
use sefs::format::{CHECKPOINT_SLOTS, FileKind, GROUP_PREFIX_LEN, GroupPrefix, Header, ImageType};
use sefs::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use sefs::vfs::{Attr, Caller, DirEntry, Volume, VolumeInfo};
use sefs_manifest::{Digest, Record};
use serde_json::{Value, json};

use self::upgrade::UpgradeArgs;
use crate::commit::CommitArgs;
use crate::image::ImageUse;
use crate::invocation;
use crate::key_source::{Environment, KeyArgs};
use crate::listing::{
    CopyError, copy_out, device_numbers, entries, kind_text, mode_text, resolve, time_text, write_name,
};
use crate::manifests;
use crate::mount_options::MountOptions;
use crate::names::escaped;
use crate::opening::{Entry, Located};
use crate::provider::CryptoKind;
use crate::report::{Failure, FailureKind, Output, Tool, harden};
use crate::showing::{entry_json, header_json, header_text, hex, info_json, info_text, line, slot_label, stat_text};
use crate::size;

/// Look inside a SEFS volume without mounting it. Nothing is changed, not even a log is replayed on disk; upgrade alone writes.
#[derive(Parser, Debug)]
#[command(name = "debug.sefs", bin_name = "debug.sefs", version, max_term_width = 100, subcommand_required = true)]
pub struct DebugArgs {
    /// The image or block device; for verify-proof the proof
    #[arg(value_hint = clap::ValueHint::FilePath)]
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The same as mount options: key-file=FILE,passphrase-file=FILE,…
    #[arg(short = 'o', value_name = "OPTION,…", help_heading = "Key and trust")]
    options: Vec<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    look: Look,
}

#[derive(Subcommand, Debug)]
enum Look {
    /// List a directory, or show one file, as `ls -l` does
    Ls {
        /// A path in the volume
        #[arg(default_value = "/")]
        path: OsString,
    },
    /// Write a file's content to standard output (never as JSON)
    Cat {
        /// A path in the volume
        path: OsString,
    },
    /// Show all attributes of a file
    Stat {
        /// A path in the volume
        path: OsString,
    },
    /// Show everything below a directory
    Tree {
        /// A path in the volume
        #[arg(default_value = "/")]
        path: OsString,
    },
    /// Show the header and what opening the volume told; without a key only the unverified header
    Super,
    /// Show the log groups that stand in the ring, from their plain prefixes
    Log,
    /// Show the volume's space
    Space,
    /// Show the key slots; without a key as the unverified header has them
    Slots,
    /// Show how content lies: files, data runs, their average length, and the files that lie in more than one
    Fragmentation {
        /// A path in the volume; of a directory, everything below
        #[arg(default_value = "/")]
        path: OsString,
        /// Show each file that lies in more than one run, too
        #[arg(long)]
        list: bool,
    },
    /// Show the epochs, and how many live blocks each sealed
    Epochs,
    /// Compare with another image, path by path: type, mode, owner, size, content, attributes, links, devices
    ///
    /// A line each: "A PATH" is in OTHER only, "D PATH" in IMAGE only, "M PATH: …" in both, with what differs. Directories are compared by
    /// their own attributes. With --json one object with counts and a list, which also says where content differs.
    /// Exit codes as those of diff(1): 0 nothing differs, 1 something does, 2 trouble.
    Diff {
        /// The other image. It opens with the key given for IMAGE unless it has its own as mount options:
        /// b.sefs,key-file=FILE; a public one needs root-digest=HEX
        #[arg(value_name = "OTHER[,KEY]")]
        other: OsString,
        /// Compare the times of last change of content too
        #[arg(long)]
        times: bool,
    },
    /// Show what identifies the volume's state
    RootDigest,
    /// Show the root of the manifest: one digest of everything in the volume, but for times
    Manifest {
        /// Show the whole list too
        #[arg(long)]
        list: bool,
    },
    /// Write a proof of what paths are to a file or to standard output; links on the way are proved too
    Prove {
        /// Paths in the volume
        #[arg(required = true)]
        paths: Vec<OsString>,
        /// The file to write
        #[arg(long, short = 'O', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Write a packed image of everything in the volume as it is now
    Commit(Box<CommitArgs>),
    /// Put the volume over other versions of its images
    ///
    /// What is the volume's own stays, and everything else is as the new images have it. Both versions are needed: the old one is found
    /// by the notes in the volume or by --lower. Where both sides changed the same thing, the volume's side stays, and a line
    /// "KIND PATH: REASON" tells: content, attributes, gone (no longer in the image), name (the image has something else there),
    /// removed (in the volume), left-out (a hard link of the image that leads to something else in the volume). What the image has
    /// instead is still in the image.
    ///
    /// It happens with one checkpoint: when it is cut off, it has happened or it has not, and super shows which.
    /// Exit codes: 0 done, 1 done with conflicts, 2 or more trouble: the volume still lies over the old images.
    Upgrade(Box<UpgradeArgs>),
    /// Check a proof against the root of a manifest; IMAGE is the proof, and no key is needed
    VerifyProof {
        /// The root, as manifest showed it
        #[arg(value_name = "ROOT", value_parser = manifests::parse_root)]
        root: Digest,
    },
}

/// Runs the tool: `args` start with the program's name.
pub fn run(args: &[OsString]) -> ExitCode {
    harden();
    let args: DebugArgs = match invocation::parse(args, WRONG_USAGE.into()) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let mut debug = Debug { out: Output::stdout(), args, terminal: std::io::stdout().is_terminal(), answered: false };
    match debug.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => DIFFERS.into(),
        Err(failure) => {
            TOOL.fail_for(&failure, debug.tells_programs());
            match (&debug.args.look, failure.kind()) {
                (Look::Diff { .. } | Look::Upgrade(_), _) => TROUBLE.into(),
                (_, FailureKind::Usage) => WRONG_USAGE.into(),
                (_, FailureKind::Operational) => ExitCode::FAILURE,
            }
        }
    }
}

/// The exit code of a command line that makes no sense.
const WRONG_USAGE: u8 = 2;
/// diff(1)'s exit codes, and those of an upgrade: differences or conflicts, and anything that kept it from being done.
const DIFFERS: u8 = 1;
const TROUBLE: u8 = 2;
const TOOL: Tool = Tool("debug.sefs");
/// Listings go out in pieces of about that many bytes.
const OUTPUT_BYTES: usize = 64 << 10;
/// A directory tree deeper than this is a hostile one.
const DEPTH_MAX: usize = 4096;
const RING_PIECE_BLOCKS: u64 = 256;

struct Debug {
    out: Output,
    args: DebugArgs,
    terminal: bool,
    /// An object of JSON was begun, and says itself what failed.
    answered: bool,
}

impl Debug {
    /// `false`: the two that were compared differ, or an upgrade met conflicts.
    fn run(&mut self) -> Result<bool, Failure> {
        self.args.key = MountOptions::key_args(&self.args.options, &self.args.key)?;
        match &self.args.look {
            Look::VerifyProof { root } => return self.verify_proof(&root.clone()).map(|()| true),
            Look::Upgrade(upgrade) => {
                let answer = (&mut self.out, &mut self.answered);
                return upgrade.run(&self.args.image, &self.args.key, self.args.json, answer);
            }
            _ => {}
        }
        let located = Located::open(&self.args.image, ImageUse::ReadOnly)?;
        let enters = match located.header.image {
            ImageType::Public => self.args.key.root_digest.is_some(),
            ImageType::Volume | ImageType::Packed => self.args.key.names_key(&self.args.image, &Environment::host())?,
        };
        match self.args.look {
            Look::Super | Look::Slots if !enters => return self.header(&located.header, None).map(|()| true),
            Look::RootDigest if !enters && located.is_packed() => {
                return self.unproven_digest(&located).map(|()| true);
            }
            _ => {}
        }
        let entry = located.enter(&self.args.key, TOOL)?;
        // What is asked of the header and the state is answered even where an image below is missing.
        let volume = match self.args.look {
            Look::Super | Look::Slots | Look::Log | Look::RootDigest => entry.bare_volume()?,
            _ => entry.volume()?,
        };
        match &self.args.look {
            Look::Ls { path } => self.ls(&volume, &path.clone())?,
            Look::Cat { path } => self.cat(&volume, &path.clone())?,
            Look::Stat { path } => self.stat(&volume, &path.clone())?,
            Look::Tree { path } => self.tree(&volume, &path.clone())?,
            Look::Super | Look::Slots => self.header(volume.header(), Some(&volume.info()))?,
            Look::Log => self.log(&entry, &volume.info())?,
            Look::Space => self.space(&volume)?,
            Look::Fragmentation { path, list } => self.fragmentation(&volume, &path.clone(), *list)?,
            Look::Epochs => self.epochs(&volume)?,
            Look::RootDigest => self.root_digest(&entry, &volume.info())?,
            Look::Manifest { list } => self.manifest(&volume, *list)?,
            Look::Prove { paths, output } => self.prove(&volume, &paths.clone(), output.clone().as_deref())?,
            Look::VerifyProof { root } => self.verify_proof(&root.clone())?,
            Look::Commit(commit) => commit.run(&volume, entry.located(), self.args.json, TOOL)?,
            Look::Upgrade(_) => {}
            Look::Diff { other, times } => return self.diff(&volume, &other.clone(), *times),
        }
        Ok(true)
    }

    /// Whether what failed is told as an object, as it is but where the output is a file's content or a proof.
    fn tells_programs(&self) -> bool {
        self.args.json && !self.answered && !matches!(self.args.look, Look::Cat { .. } | Look::Prove { .. })
    }

    fn crypto(&self) -> CryptoKind {
        self.args.key.crypto.unwrap_or_default()
    }

    fn ls(&mut self, volume: &Volume, path: &OsString) -> Result<(), Failure> {
        let attr = resolve(volume, path.as_bytes(), true).map_err(|error| at(path.as_bytes(), &error))?;
        let named = if attr.kind == FileKind::Directory {
            let found = entries(volume, attr.ino).map_err(|error| at(path.as_bytes(), &error))?;
            let attrs: Result<Vec<_>, Error> =
                found.into_iter().map(|DirEntry { ino, name, .. }| Ok((name, volume.attr(ino)?))).collect();
            attrs.map_err(|error| at(path.as_bytes(), &error))?
        } else {
            vec![(path.as_bytes().to_vec(), attr)]
        };
        let mut lines = Vec::new();
        for (name, attr) in named {
            let target = self.target(volume, &name, &attr)?;
            if self.args.json {
                self.out.json(&entry_json(&name, &attr, target.as_deref()))?;
                continue;
            }
            self.ls_line(&mut lines, &name, &attr, target.as_deref());
            if lines.len() >= OUTPUT_BYTES {
                self.out.bytes(&lines)?;
                lines.clear();
            }
            if self.out.is_closed() {
                break;
            }
        }
        self.out.bytes(&lines)
    }

    fn ls_line(&self, lines: &mut Vec<u8>, name: &[u8], attr: &Attr, target: Option<&[u8]>) {
        let size = match attr.kind {
            FileKind::BlockDevice | FileKind::CharDevice => {
                let (major, minor) = device_numbers(attr.rdev);
                format!("{major}, {minor}")
            }
            _ => attr.size.to_string(),
        };
        let (mode, time) = (mode_text(attr.kind, attr.mode), time_text(attr.mtime, false));
        lines.extend(format!("{mode} {:>3} {:>5} {:>5} {size:>12} {time} ", attr.links, attr.uid, attr.gid).bytes());
        // Writing to a vector cannot fail.
        let _ = write_name(lines, name, self.terminal);
        if let Some(target) = target {
            lines.extend(b" -> ");
            let _ = write_name(lines, target, self.terminal);
        }
        lines.push(b'\n');
    }

    fn target(&self, volume: &Volume, name: &[u8], attr: &Attr) -> Result<Option<Vec<u8>>, Failure> {
        match attr.kind {
            FileKind::Symlink => volume.read_link(attr.ino).map(Some).map_err(|error| at(name, &error)),
            _ => Ok(None),
        }
    }

    fn cat(&mut self, volume: &Volume, path: &OsString) -> Result<(), Failure> {
        let attr = resolve(volume, path.as_bytes(), true).map_err(|error| at(path.as_bytes(), &error))?;
        match attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => {
                return Err(at(path.as_bytes(), &Posix::IsDirectory.into()).way_out("use ls or tree"));
            }
            kind => return Err(Failure::new(escaped(path.as_bytes()), format!("it is a {}", kind_text(kind)))),
        }
        let mut failure = None;
        let out = &mut self.out;
        let copied = copy_out(volume, attr.ino, &mut |bytes| {
            let written = out.bytes(bytes);
            let stop = written.is_err() || out.is_closed();
            failure = written.err();
            if stop { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        match (failure, copied) {
            (Some(failure), _) => Err(failure),
            (None, Err(CopyError::Volume(error))) => Err(at(path.as_bytes(), &error)),
            (None, Err(CopyError::Output(_)) | Ok(_)) => Ok(()),
        }
    }

    fn stat(&mut self, volume: &Volume, path: &OsString) -> Result<(), Failure> {
        let failed = |error: Error| at(path.as_bytes(), &error);
        let attr = resolve(volume, path.as_bytes(), false).map_err(failed)?;
        let target = self.target(volume, path.as_bytes(), &attr)?;
        let caller = Caller::root();
        let mut xattrs = Vec::new();
        for name in volume.list_xattr(&caller, attr.ino).map_err(failed)? {
            let value = volume.get_xattr(&caller, attr.ino, &name).map_err(failed)?;
            xattrs.push((name, value));
        }
        if self.args.json {
            let mut value = entry_json(path.as_bytes(), &attr, target.as_deref());
            let listed = xattrs.iter().map(|(name, value)| json!({"name": escaped(name), "value_hex": hex(value)}));
            value["xattrs"] = listed.collect();
            return self.out.json(&value);
        }
        let mut text = String::new();
        stat_text(&mut text, path.as_bytes(), &attr, target.as_deref());
        for (name, value) in &xattrs {
            line(&mut text, "attribute", format!("{} = {}", escaped(name), escaped(value)));
        }
        self.out.bytes(text.as_bytes())
    }

    fn tree(&mut self, volume: &Volume, path: &OsString) -> Result<(), Failure> {
        let failed = |error: Error| at(path.as_bytes(), &error);
        let top = resolve(volume, path.as_bytes(), true).map_err(failed)?;
        if !self.args.json {
            self.out.line(escaped(path.as_bytes()))?;
        }
        if top.kind != FileKind::Directory {
            return Err(failed(Posix::NotDirectory.into()).way_out("use stat"));
        }
        let (mut files, mut directories) = (0_u64, 0_u64);
        let mut stack =
            vec![Level { left: listed(volume, top.ino, path.as_bytes())?, prefix: String::new(), path: Vec::new() }];
        while let Some(level) = stack.last_mut() {
            let Some(entry) = level.left.pop() else {
                stack.pop();
                continue;
            };
            if self.out.is_closed() {
                return Ok(());
            }
            let last = level.left.is_empty();
            let mut inside = level.path.clone();
            inside.push(b'/');
            inside.extend(&entry.name);
            let below = format!("{}{}", level.prefix, if last { "    " } else { "│   " });
            let branch = format!("{}{}", level.prefix, if last { "└── " } else { "├── " });
            let attr = volume.attr(entry.ino).map_err(|error| at(&inside, &error))?;
            self.tree_line(volume, &branch, &inside, &entry, &attr)?;
            if attr.kind != FileKind::Directory {
                files += 1;
                continue;
            }
            directories += 1;
            if stack.len() >= DEPTH_MAX {
                return Err(
                    Failure::new(escaped(&inside), "it is nested too deeply").way_out("name a directory below it")
                );
            }
            stack.push(Level { left: listed(volume, attr.ino, &inside)?, prefix: below, path: inside });
        }
        if self.args.json { Ok(()) } else { self.out.line(format!("\n{directories} directories, {files} files")) }
    }

    fn tree_line(
        &mut self,
        volume: &Volume,
        branch: &str,
        path: &[u8],
        entry: &DirEntry,
        attr: &Attr,
    ) -> Result<(), Failure> {
        let target = self.target(volume, path, attr)?;
        if self.args.json {
            return self.out.json(&entry_json(path, attr, target.as_deref()));
        }
        let mut text = format!("{branch}{}", escaped(&entry.name));
        match attr.kind {
            FileKind::Directory => text.push('/'),
            FileKind::Regular => text.push_str(&format!("  {}", size::render(attr.size))),
            FileKind::Symlink => text.push_str(&format!(" -> {}", escaped(target.as_deref().unwrap_or_default()))),
            kind => text.push_str(&format!("  ({})", kind_text(kind))),
        }
        self.out.line(text)
    }

    fn header(&mut self, header: &Header, info: Option<&VolumeInfo>) -> Result<(), Failure> {
        let slots: Vec<Value> = header
            .slots
            .iter()
            .enumerate()
            .map(|(index, slot)| json!({"slot": index, "kind": slot_label(slot), "body_bytes": slot.body.len()}))
            .collect();
        if matches!(self.args.look, Look::Slots) {
            return self.slots(header, &slots, info.is_some());
        }
        if self.args.json {
            let mut value = header_json(header, &slots);
            value["authenticated"] = info.is_some().into();
            value["crypto"] = info.map_or(Value::Null, |_| self.crypto().to_string().into());
            value["state"] = info.map_or(Value::Null, info_json);
            return self.out.json(&value);
        }
        let mut text = String::new();
        if info.is_none() {
            let _ = writeln!(text, "{}", unauthenticated(header));
        }
        header_text(&mut text, header);
        if let Some(info) = info {
            line(&mut text, "cryptography", self.crypto());
            info_text(&mut text, info);
        }
        self.out.bytes(text.as_bytes())
    }

    fn slots(&mut self, header: &Header, slots: &[Value], authenticated: bool) -> Result<(), Failure> {
        if self.args.json {
            return self.out.json(&json!({"authenticated": authenticated, "slots": slots}));
        }
        if !authenticated {
            self.out.line(unauthenticated(header))?;
        }
        for (index, slot) in header.slots.iter().enumerate() {
            self.out.line(format!("slot {index:>2}: {}, {} bytes", slot_label(slot), slot.body.len()))?;
        }
        Ok(())
    }

    fn space(&mut self, volume: &Volume) -> Result<(), Failure> {
        let stat = volume.stat_fs();
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(stat.block_size));
        let used = stat.blocks.saturating_sub(stat.blocks_free);
        if self.args.json {
            return self.out.json(&json!({
                "total_bytes": bytes(stat.blocks),
                "used_bytes": bytes(used),
                "free_bytes": bytes(stat.blocks_free),
                "available_bytes": bytes(stat.blocks_available),
                "inodes_used": stat.inodes.saturating_sub(stat.inodes_free),
                "inodes_free": stat.inodes_free,
            }));
        }
        let mut text = String::new();
        let mut row =
            |name, blocks| line(&mut text, name, format!("{} ({blocks} blocks)", size::render(bytes(blocks))));
        row("total", stat.blocks);
        row("used", used);
        row("free", stat.blocks_free);
        row("available", stat.blocks_available);
        line(&mut text, "inodes used", stat.inodes.saturating_sub(stat.inodes_free));
        line(&mut text, "inodes free", format!("{} (estimated)", stat.inodes_free));
        self.out.bytes(text.as_bytes())
    }

    fn log(&mut self, entry: &Entry, info: &VolumeInfo) -> Result<(), Failure> {
        let header = &entry.located().header;
        if info.root_digest.is_some() {
            return Err(Failure::usage("log", "a packed image has no log").way_out("use super or space"));
        }
        let groups = groups_in_ring(entry.located())?;
        if self.args.json {
            for group in &groups {
                self.out.json(&json!({
                    "lsn": group.lsn.0,
                    "epoch": group.epoch.0,
                    "record_bytes": group.sealed_len,
                    "data_blocks": group.data_blocks,
                    "blocks": group.total_blocks(),
                    "authenticated": false,
                }))?;
            }
            return self.out.json(&json!({
                "ring_start_block": header.ring_start.0,
                "ring_blocks": header.ring_blocks,
                "replayed_groups": info.replayed_groups,
                "dropped_groups": info.dropped_groups,
            }));
        }
        let mut text = String::new();
        line(
            &mut text,
            "ring",
            format!("blocks {} to {}", header.ring_start, header.ring_start.0 + header.ring_blocks - 1),
        );
        line(&mut text, "replayed", format!("{} groups, authenticated", info.replayed_groups));
        line(&mut text, "dropped", format!("{} groups at the end that were not whole", info.dropped_groups));
        text.push_str("# What stands in the ring, merged groups included; from plain bytes, not authenticated:\n");
        for group in &groups {
            let _ = writeln!(
                text,
                "lsn {:>10}  epoch {:>5}  {:>7} bytes of records  {:>4} data blocks",
                group.lsn.0, group.epoch.0, group.sealed_len, group.data_blocks
            );
        }
        self.out.bytes(text.as_bytes())
    }

    fn manifest(&mut self, volume: &Volume, list: bool) -> Result<(), Failure> {
        let manifest = manifests::of_volume(volume)?;
        if list {
            self.records(manifest.records().iter())?;
        }
        let (root, entries) = (hex(&manifest.root()), manifest.records().len());
        // A volume carries none.
        let carried = volume.info().manifest_root;
        if carried.is_some_and(|carried| carried != manifest.root()) {
            let reason = format!("its content has the manifest root {root}, but it says another");
            return Err(Failure::new(self.args.image.display(), reason).way_out("build the image again"));
        }
        if self.args.json {
            return self.out.json(&json!({"manifest_root": root, "entries": entries, "carried": carried.is_some()}));
        }
        self.out.line(format!("manifest root {root}"))?;
        let as_said = if carried.is_some() { "; the image carries this root" } else { "" };
        self.out.line(format!("{entries} entries{as_said}"))
    }

    fn prove(&mut self, volume: &Volume, paths: &[OsString], output: Option<&Path>) -> Result<(), Failure> {
        let paths: Vec<&[u8]> = paths.iter().map(|path| path.as_bytes()).collect();
        let proof = manifests::prove(&manifests::of_volume(volume)?, &paths)?.encode();
        match output {
            Some(path) => std::fs::write(path, proof).map_err(|error| Failure::io(path, &error)),
            None if self.terminal => {
                Err(Failure::usage("prove", "a proof is no text for a terminal").way_out("give --output FILE"))
            }
            None => self.out.bytes(&proof),
        }
    }

    fn verify_proof(&mut self, root: &Digest) -> Result<(), Failure> {
        let proof = manifests::verify(&self.args.image, root)?;
        self.records(proof.records.iter().map(|(_, record)| record))
    }

    fn records<'a>(&mut self, mut records: impl Iterator<Item = &'a Record>) -> Result<(), Failure> {
        records.try_for_each(|record| match self.args.json {
            true => self.out.json(&manifests::record_json(record)),
            false => self.out.line(manifests::record_text(record)),
        })
    }

    /// The digest of a packed image that nothing admits yet.
    fn unproven_digest(&mut self, located: &Located) -> Result<(), Failure> {
        let digest = Volume::read_root_digest(&*located.backend, &self.crypto().host_env());
        let digest = hex(&digest.map_err(|error| Failure::volume(&located.path, &error))?);
        if self.args.json {
            return self.out.json(&json!({"root_digest": digest, "proven": false, "why": NOT_PROVEN}));
        }
        self.out.line(format!("root digest {digest}"))?;
        self.out.line(format!("# {NOT_PROVEN}"))
    }

    fn root_digest(&mut self, entry: &Entry, info: &VolumeInfo) -> Result<(), Failure> {
        if let Some(digest) = info.root_digest.map(|digest| hex(&digest)) {
            return match self.args.json {
                true => self.out.json(&json!({"root_digest": digest, "proven": true})),
                false => self.out.line(format!("root digest {digest}")),
            };
        }
        let located = entry.located();
        let slot = usize::from(info.generation.0 % 2 == 1);
        let offset = CHECKPOINT_SLOTS[slot].0 * BLOCK_SIZE_U64;
        let read = located.backend.read_at(offset, BLOCK_SIZE);
        let buf = read.map_err(|error| entry.failed(&error.into()))?;
        let id = format!("{}-{}", info.generation, hex(&buf.bytes()[32..48]));
        if self.args.json {
            return self.out.json(&json!({"root_digest": null, "checkpoint_id": id, "why": NO_DIGEST}));
        }
        self.out.line(format!("checkpoint id {id}"))?;
        self.out.line(format!("# {NO_DIGEST}"))
    }
}

const NOT_PROVEN: &str = "of what stands there, whoever put it there: this proves nothing; take the digest from whoever built the \
                          image, and give it with --root-digest";
const NO_DIGEST: &str = "this is a read-write volume, not a digest image: whoever holds the key can make another state with \
                         the same id, so it names a state and proves nothing; pin the volume id and use an anchor instead";

/// What stands before a header that nothing vouches for.
fn unauthenticated(header: &Header) -> &'static str {
    match header.image {
        ImageType::Public => "# Not authenticated: anyone could have written this. A root digest tells.",
        ImageType::Volume | ImageType::Packed => "# Not authenticated: anyone could have written this. A key tells.",
    }
}

/// The entries of a directory that are still to be shown, the next one last.
struct Level {
    left: Vec<DirEntry>,
    prefix: String,
    path: Vec<u8>,
}

fn listed(volume: &Volume, dir: InodeNo, path: &[u8]) -> Result<Vec<DirEntry>, Failure> {
    let mut found = entries(volume, dir).map_err(|error| at(path, &error))?;
    found.reverse();
    Ok(found)
}

/// The prefixes in the ring that stand where their own numbers say.
fn groups_in_ring(located: &Located) -> Result<Vec<GroupPrefix>, Failure> {
    let header = &located.header;
    let (mut groups, mut block) = (Vec::new(), 0);
    while block < header.ring_blocks {
        let count = RING_PIECE_BLOCKS.min(header.ring_blocks - block);
        let offset = (header.ring_start.0 + block) * BLOCK_SIZE_U64;
        let length = usize::try_from(count * BLOCK_SIZE_U64).expect("a piece of the ring is small");
        let read = located.backend.read_at(offset, length);
        let buf = read.map_err(|error| Failure::volume(&located.path, &error.into()))?;
        for (index, bytes) in (block..).zip(buf.bytes().chunks_exact(BLOCK_SIZE)) {
            let prefix = bytes.first_chunk::<GROUP_PREFIX_LEN>().and_then(GroupPrefix::decode);
            groups.extend(prefix.filter(|prefix| prefix.lsn.0 % header.ring_blocks == index));
        }
        block += count;
    }
    groups.sort_by_key(|group: &GroupPrefix| group.lsn);
    Ok(groups)
}

fn at(path: &[u8], error: &Error) -> Failure {
    Failure::volume(std::path::Path::new(std::ffi::OsStr::from_bytes(path)), error)
}
