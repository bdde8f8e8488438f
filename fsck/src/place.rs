//! Where a new volume goes: a file, or a block device.
//!
//! *Invariants*: what stands there already stays as it is, locked, until a complete volume takes its place; only a device is
//! written in place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sefs::backend::Backend;
use tempfile::{NamedTempFile, TempPath};

use crate::image::{Image, ImageUse, lock_new};
use crate::io::IoKind;
use crate::occupant::{Occupant, occupant};
use crate::report::{Failure, Tool};
use crate::size;
use crate::source::FileId;

/// A place for a volume.
pub struct Place {
    /// Of a file the final path; links on the way to it are resolved.
    path: PathBuf,
    /// What stands there, locked.
    old: Option<Image>,
    device: bool,
    len_bytes: u64,
    holds_other_data: bool,
}

/// A volume that is being made and does not stand in its place yet.
pub struct Unplaced {
    place: Place,
    file: File,
    /// Removed when it is dropped. A device has none.
    temporary: Option<TempPath>,
}

impl Place {
    /// Looks at what stands at `image`, and refuses to take the place of anything that holds data, unless by force.
    pub fn find(image: &Path, force: bool) -> Result<Place, Failure> {
        let metadata = match fs::metadata(image) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (path, old) = (new_path(image)?, None);
                return Ok(Place { path, old, device: false, len_bytes: 0, holds_other_data: false });
            }
            Err(error) => return Err(Failure::io(image, &error).way_out("check the path and its permissions")),
        };
        let device = metadata.file_type().is_block_device();
        if !metadata.is_file() && !device {
            let what = if metadata.is_dir() { "it is a directory" } else { "it is neither a file nor a block device" };
            return Err(Failure::new(image.display(), what).way_out("name a file or a block device"));
        }
        let old = Image::open_within(image, ImageUse::ReadWrite, PATIENCE)?;
        let of_image = |error: io::Error| Failure::io(image, &error);
        let len_bytes = old.file().seek(SeekFrom::End(0)).map_err(of_image)?;
        let found = occupant(old.file(), len_bytes).map_err(of_image)?;
        if found != Occupant::Nothing && !force {
            return Err(Failure::new(image.display(), format!("it holds {found}"))
                .way_out("give --force to replace it, or name another"));
        }
        let path = if device { image.to_path_buf() } else { fs::canonicalize(image).map_err(of_image)? };
        // The length of what is to be replaced says nothing about what is to come.
        let len_bytes = if device || found == Occupant::Nothing { len_bytes } else { 0 };
        let holds_other_data = !matches!(found, Occupant::Nothing | Occupant::Volume { .. });
        Ok(Place { path, old: Some(old), device, len_bytes, holds_other_data })
    }

    /// Bytes of a device, or of a file that holds nothing yet (`truncate -s 1G image`); otherwise 0.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Whether what stands there is something else than a volume.
    pub fn holds_other_data(&self) -> bool {
        self.holds_other_data
    }

    /// Whether `path` leads here, if something stands there or not.
    pub fn is_path(&self, path: &Path) -> bool {
        fs::canonicalize(path).ok().or_else(|| new_path(path).ok()).is_some_and(|path| path == self.path)
    }

    /// Whether it is a file below `directory`.
    pub fn is_below(&self, directory: &Path) -> bool {
        fs::canonicalize(directory).is_ok_and(|directory| self.path.starts_with(directory))
    }

    /// Where much can be kept until the volume is made: beside a file; for a device where temporary files are.
    pub fn spool_directory(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if !self.device => parent.to_path_buf(),
            _ => std::env::temp_dir(),
        }
    }

    /// What stands there.
    pub fn occupied_id(&self) -> Option<FileId> {
        self.old.as_ref().and_then(|old| old.file().metadata().ok()).map(|metadata| FileId::of(&metadata))
    }

    /// What stands there now is what was looked at: nothing, or what is locked.
    fn unchanged(&self) -> Result<(), Failure> {
        let now = fs::metadata(&self.path).ok().map(|metadata| FileId::of(&metadata));
        if self.device || now == self.occupied_id() { Ok(()) } else { Err(appeared(&self.path)) }
    }

    /// Refuses early what cannot succeed: a volume is sparse, but its content is not.
    pub fn has_room(&self, needed_bytes: u64) -> Result<(), Failure> {
        let found = self.path.parent().filter(|_| !self.device).map(nix::sys::statvfs::statvfs);
        let Some(Ok(found)) = found else { return Ok(()) };
        let free_bytes = found.blocks_available().saturating_mul(found.fragment_size());
        if needed_bytes <= free_bytes {
            return Ok(());
        }
        let (free, needed) = (size::render(free_bytes), size::render(needed_bytes));
        let reason = format!("the filesystem that is to hold it has {free} free, {needed} are needed");
        Err(Failure::new(self.path.display(), reason).way_out("free some space, or put the image elsewhere"))
    }

    /// Starts a volume of `size_bytes`.
    pub fn begin(self, size_bytes: u64) -> Result<Unplaced, Failure> {
        if let (true, Some(old)) = (self.device, &self.old) {
            let file = old.file().try_clone().map_err(|error| Failure::io(&self.path, &error))?;
            return Ok(Unplaced { place: self, file, temporary: None });
        }
        let (file, temporary) = temporary_beside(&self.path)?;
        lock_new(&file, &self.path)?;
        file.set_len(size_bytes).map_err(|error| host_refused(&self.path, &error))?;
        Ok(Unplaced { place: self, file, temporary: Some(temporary) })
    }
}

impl Unplaced {
    /// The blocks to make the volume in.
    pub fn backend(&self, kind: IoKind, tool: Tool) -> Result<Arc<dyn Backend>, Failure> {
        self.file.try_clone().and_then(|file| kind.backend(file, tool)).map_err(|error| self.failed(&error))
    }

    /// The file that is being filled.
    pub fn id(&self) -> Result<FileId, Failure> {
        self.file.metadata().map(|metadata| FileId::of(&metadata)).map_err(|error| self.failed(&error))
    }

    /// Leaves so many bytes of the file: what was written and given up again goes.
    pub fn cut(&self, len_bytes: u64) -> Result<(), Failure> {
        self.file.set_len(len_bytes).map_err(|error| host_refused(&self.place.path, &error))
    }

    /// Puts the complete volume in its place.
    pub fn place(mut self) -> Result<(), Failure> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let path = &self.place.path;
        if let Some(old) = &self.place.old {
            keep_attributes(&self.file, old).map_err(|error| self.failed(&error))?;
        }
        self.file.sync_all().map_err(|error| host_refused(path, &error))?;
        self.place.unchanged()?;
        match &self.place.old {
            Some(_) => temporary.persist(path).map_err(|error| self.failed(&error.error))?,
            None => temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => appeared(path),
                _ => self.failed(&error.error),
            })?,
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        // The rename is durable when the directory is. Some filesystems cannot sync directories; then it is as it is.
        if let Ok(directory) = File::open(directory) {
            let _ = directory.sync_all();
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(&self.place.path, error)
    }
}

fn appeared(path: &Path) -> Failure {
    Failure::new(path.display(), "something else was put there while the volume was made; it is left as it is")
        .way_out("look at it, then name another image or start again")
}

/// Whether `path` is a block device.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// What the host said when it was asked for space.
pub fn host_refused(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Failure::new(path.display(), "no space left on the filesystem that is to hold it")
                .way_out("free some space, or put the image elsewhere")
        }
        std::io::ErrorKind::FileTooLarge => {
            Failure::new(path.display(), "the system does not allow so large a file here")
                .way_out("raise `ulimit -f`, put the image elsewhere, or give a smaller --size")
        }
        _ => Failure::io(path, error).way_out("check the disk below it"),
    }
}

/// A mount that is just ending gets that long to let an image go.
const PATIENCE: Duration = Duration::from_secs(3);

/// The path of a file that does not exist yet, with its directory's links resolved.
fn new_path(image: &Path) -> Result<PathBuf, Failure> {
    // A link to nowhere would be replaced by the rename, not followed.
    if let Ok(target) = fs::read_link(image) {
        return Err(Failure::new(
            image.display(),
            format!("it is a link to {}, which does not exist", target.display()),
        )
        .way_out("name the file itself"));
    }
    let Some(name) = image.file_name() else {
        return Err(Failure::usage(image.display(), "it names no file").way_out("name the image"));
    };
    let parent = image.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) => Err(Failure::io(parent, &error).way_out("make that directory first")),
    }
}

fn temporary_beside(path: &Path) -> Result<(File, TempPath), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut prefix = OsString::from(".");
    // The longest name that a host takes has 255 bytes; what the temporary name adds must fit too.
    let name = path.file_name().unwrap_or_default();
    prefix.push(if name.len() > 200 { "image".as_ref() } else { name });
    prefix.push(".");
    let made = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(directory);
    made.map(NamedTempFile::into_parts).map_err(|error| {
        let text = error.to_string();
        let reason =
            text.split(" at path").next().unwrap_or(&text).split(" (os error").next().unwrap_or(&text).to_string();
        Failure::new(directory.display(), reason).way_out("check its permissions and that it has space")
    })
}

/// A replaced image keeps its owner, as far as we may set it, and then its permissions.
fn keep_attributes(file: &File, old: &Image) -> io::Result<()> {
    let metadata = old.file().metadata()?;
    let owned = std::os::unix::fs::fchown(file, Some(metadata.uid()), Some(metadata.gid()));
    let mode = if owned.is_ok() { metadata.mode() & 0o777 } else { 0o600 };
    file.set_permissions(fs::Permissions::from_mode(mode))
}
