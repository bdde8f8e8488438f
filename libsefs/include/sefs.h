/* SEFS: an encrypted, integrity-protected filesystem. Made from the Rust source by cbindgen; do not edit.
 *
 * A volume is opened with sefs_open() on a backend and works on inode numbers and names of bytes, as a LibOS's own
 * filesystem layer does. All functions but sefs_close() and sefs_abandon() may be called from many threads at once.
 *
 * A call that fails answers a negative Linux error number, or null; sefs_last_error() tells what it was. EIO may mean
 * that stored bytes are not authentic: `kind` tells. Nothing that the host stores makes a call panic or run without end.
 *
 * A pointer is null only where that is said. Structs that begin with `size` are set to zero and given their size:
 *     sefs_open_options options = {.size = sizeof options};
 * A handle is freed once. Callbacks are called from any thread that is in a call, from several at once, until their
 * handle was freed and no volume uses it any more; they do not call into the volume that calls them. */

#ifndef SEFS_H
#define SEFS_H

#include <stddef.h>
#include <stdint.h>

// The version of this interface; it grows with each function or field that comes to it.
#define SEFS_ABI_VERSION 2

// The inode number of the root directory.
#define SEFS_ROOT 1

// Bytes of the longest name.
#define SEFS_NAME_MAX 255

// Open: nothing is written, not even a replayed log.
#define SEFS_OPEN_READ_ONLY 1

// Open: without the anchor that the volume is bound to; it is unbound by the first write, for good.
#define SEFS_OPEN_ABANDON_ANCHOR 2

// A caller whose permissions are checked here; otherwise the program has checked them.
#define SEFS_CALLER_CHECK 1

// A caller whose umask is to be applied.
#define SEFS_CALLER_UMASK 2

// Which fields of `sefs_set_attr` count: permission bits.
#define SEFS_SET_MODE 1

// The owner.
#define SEFS_SET_UID 2

// The owning group.
#define SEFS_SET_GID 4

// The length of a regular file.
#define SEFS_SET_SIZE 8

// The time of the last access.
#define SEFS_SET_ATIME 16

// The time of the last change of content.
#define SEFS_SET_MTIME 32

// The last access is now.
#define SEFS_SET_ATIME_NOW 64

// The last change of content is now.
#define SEFS_SET_MTIME_NOW 128

// Rename: fail if the new name exists.
#define SEFS_RENAME_NOREPLACE 1

// Rename: both names change places.
#define SEFS_RENAME_EXCHANGE 2

// Write: at the end of the file, wherever that is.
#define SEFS_WRITE_APPEND 1

// Write: clear set-user-id and set-group-id, whoever calls.
#define SEFS_WRITE_KILL_PRIVILEGES 2

// Write: a page cache writes back; times stay, and the reserve may be used.
#define SEFS_WRITE_BACK 4

// Allocate: the file's length stays.
#define SEFS_ALLOCATE_KEEP_SIZE 1

// Allocate: the range reads as zeros and takes no space (with `SEFS_ALLOCATE_KEEP_SIZE`, as fallocate(2) demands).
#define SEFS_ALLOCATE_PUNCH_HOLE 2

// Allocate: the range reads as zeros and has space promised.
#define SEFS_ALLOCATE_ZERO_RANGE 16

// Set an extended attribute: it must not exist.
#define SEFS_XATTR_CREATE 1

// Set an extended attribute: it must exist.
#define SEFS_XATTR_REPLACE 2

// Whose fault a failure is.
typedef enum {
  // No call failed on this thread.
  SEFS_ERROR_KIND_NONE = 0,
  // A POSIX outcome: understood and refused.
  SEFS_ERROR_KIND_POSIX = 1,
  // Authentication failed: stored bytes are not what this volume's key holder wrote there.
  SEFS_ERROR_KIND_TAMPERED = 2,
  // The stored state is authentic and too old.
  SEFS_ERROR_KIND_ROLLED_BACK = 3,
  // Authentic bytes break an invariant.
  SEFS_ERROR_KIND_CORRUPT = 4,
  // Unauthenticated nonsense where a header should be.
  SEFS_ERROR_KIND_MALFORMED = 5,
  // A volume made by or for another version.
  SEFS_ERROR_KIND_INCOMPATIBLE = 6,
  // The host failed to read, write or flush.
  SEFS_ERROR_KIND_BACKEND = 7,
  // The key opens no slot, or is not this volume's.
  SEFS_ERROR_KIND_WRONG_KEY = 8,
  // The random generator failed; nothing was sealed.
  SEFS_ERROR_KIND_RANDOM = 9,
  // The anchor is unreachable, missing or refused to advance.
  SEFS_ERROR_KIND_ANCHOR = 10,
  // An earlier failure made the volume read-only.
  SEFS_ERROR_KIND_LATCHED = 11,
  // The program asked for something that makes no sense.
  SEFS_ERROR_KIND_INVALID = 12,
  // A defect of this library.
  SEFS_ERROR_KIND_INTERNAL = 13,
  // Something that this version has no word for; `text` says what.
  SEFS_ERROR_KIND_OTHER = 14,
} sefs_error_kind;

// What opens a volume, and what a new one is wrapped for.
typedef enum {
  // The volume key itself, 32 bytes, from whoever unwrapped it. A new volume gets no key slot.
  SEFS_KEY_KIND_VOLUME = 0,
  // The 32 bytes of a key file.
  SEFS_KEY_KIND_RAW_KEY = 1,
  // A passphrase, of any length but 0.
  SEFS_KEY_KIND_PASSPHRASE = 2,
} sefs_key_kind;

// A place for the newest committed state, out of the host's reach. Volumes that use it keep it alive.
typedef struct sefs_anchor sefs_anchor;

// A place for ciphertext. Volumes that use it keep it alive.
typedef struct sefs_backend sefs_backend;

// Where random bytes and the time come from. Volumes that use it keep it alive.
typedef struct sefs_environment sefs_environment;

// An open volume, and what its images are opened with.
typedef struct sefs_volume sefs_volume;

// What the last failure on this thread was.
typedef struct {
  // The Linux error number, positive; 0 if no call failed.
  int number;
  // Whose fault it is.
  sefs_error_kind kind;
  // For people, cut to what fits, with a zero at its end. It names ids, never names or secrets.
  char text[248];
} sefs_error;

// Fills `buffer` from `offset`, all of it: 0, or a positive error number.
typedef int (*sefs_read_fn)(void*, uint64_t, uint8_t*, size_t);

// Writes all of `buffer` at `offset`: 0, or a positive error number.
typedef int (*sefs_write_fn)(void*, uint64_t, const uint8_t*, size_t);

// Makes completed writes durable: 0, or a positive error number.
typedef int (*sefs_flush_fn)(void*);

// Gives a range back to the host: 0, or a positive error number.
typedef int (*sefs_discard_fn)(void*, uint64_t, uint64_t);

// Tells the length: 0, or a positive error number.
typedef int (*sefs_length_fn)(void*, uint64_t*);

// Makes the place at least so long: 0, or a positive error number.
typedef int (*sefs_grow_fn)(void*, uint64_t);

// A backend's callbacks. Offsets and lengths are multiples of 4,096; what is handed over is ciphertext, and memory of this
// library that the host may see.
typedef struct {
  // `sizeof(sefs_backend_ops)`.
  size_t size;
  // Handed to each callback.
  void *context;
  // Needed.
  sefs_read_fn read;
  // Needed by volumes that are written to.
  sefs_write_fn write;
  // Needed by volumes that are written to.
  sefs_flush_fn flush;
  // May be null.
  sefs_discard_fn discard;
  // Needed.
  sefs_length_fn length;
  // May be null for a place that has its length.
  sefs_grow_fn grow;
} sefs_backend_ops;

// What an anchor holds.
typedef struct {
  // One higher with each advance.
  uint64_t counter;
  // Names the newest confirmed state; zero before the first.
  uint8_t digest[32];
} sefs_anchor_state;

// Tells what the anchor holds: 0; 2 (`ENOENT`) if it does not exist; another error number.
typedef int (*sefs_anchor_read_fn)(void*, sefs_anchor_state*);

// Replaces one state by another, durably, if the anchor holds the first and the second counts higher: 0; 17 (`EEXIST`) if
// it holds something else, and nothing was changed; another error number if it may hold either.
typedef int (*sefs_anchor_advance_fn)(void*, const sefs_anchor_state*, const sefs_anchor_state*);

// An anchor's callbacks. All are needed.
typedef struct {
  // `sizeof(sefs_anchor_ops)`.
  size_t size;
  // Handed to each callback.
  void *context;
  // Which anchor it is: a volume is bound to one.
  uint8_t identity[32];
  // Tells what it holds.
  sefs_anchor_read_fn read;
  // Compares and swaps.
  sefs_anchor_advance_fn advance;
} sefs_anchor_ops;

// Fills all of a buffer from the hardware's generator: 0, or anything else, and then nothing is sealed.
typedef int (*sefs_random_fn)(void*, uint8_t*, size_t);

// A time: seconds since 1970, and nanoseconds from 0 to 999,999,999.
typedef struct {
  // Seconds.
  int64_t seconds;
  // Nanoseconds.
  uint32_t nanoseconds;
  // Zero.
  uint32_t reserved;
} sefs_time;

// Tells the time of day; nothing that is trusted depends on it.
typedef void (*sefs_time_fn)(void*, sefs_time*);

// An environment's callbacks. One that is null is the operating system's.
typedef struct {
  // `sizeof(sefs_environment_ops)`.
  size_t size;
  // Handed to each callback.
  void *context;
  // Random bytes.
  sefs_random_fn random;
  // The time.
  sefs_time_fn time;
} sefs_environment_ops;

// A key. Its bytes are copied into memory that is wiped, and are not kept after the call.
typedef struct {
  // What `bytes` is: one of `SEFS_KEY_KIND_*`.
  uint32_t kind;
  // The secret.
  const uint8_t *bytes;
  // How many bytes.
  size_t len;
} sefs_key;

// How to make a volume. All zero but `size` and `size_bytes` is the default.
typedef struct {
  // `sizeof(sefs_format_options)`.
  size_t size;
  // The volume's size, at least 4 MiB; cut down to whole blocks of 4 KiB.
  uint64_t size_bytes;
  // 16 bytes that never repeat, or null for random ones.
  const uint8_t *volume_id;
  // At most 64 bytes of UTF-8 for people, or null.
  const char *label;
  // Permission bits of the root directory; 0 for 0755.
  uint32_t root_mode;
  // Its owner.
  uint32_t root_uid;
  // Its group.
  uint32_t root_gid;
  // With an anchor: 0 it advances with each commit (strict), 1 with each checkpoint.
  uint32_t anchor_policy;
  // An anchor that the volume is bound to from its first state on, or null.
  const sefs_anchor *anchor;
  // Where random bytes and the time come from; null for the operating system.
  const sefs_environment *environment;
} sefs_format_options;

// How to open a volume. All zero but `size` is the default.
typedef struct {
  // `sizeof(sefs_open_options)`.
  size_t size;
  // `SEFS_OPEN_*`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
  // A budget for all caches together, at least 4 MiB; 0 for 64 MiB.
  uint64_t memory_bytes;
  // The longest time that a change stays unflushed while `sefs_work` is called, in milliseconds; 0 for 1,000.
  uint64_t commit_ms;
  // The most that Argon2id may take while a passphrase is tried; 0 for 1 GiB.
  uint64_t passphrase_bytes;
  // 16 bytes: the volume that must be found; or null.
  const uint8_t *volume_id;
  // The volume's anchor, or null.
  const sefs_anchor *anchor;
  // Where random bytes and the time come from; null for the operating system.
  const sefs_environment *environment;
  // 32 bytes: the root digest of the one packed image that may be opened; or null.
  const uint8_t *root_digest;
} sefs_open_options;

// Who asks. Null stands for the superuser, for whom nothing is checked.
typedef struct {
  // The user.
  uint32_t uid;
  // The group.
  uint32_t gid;
  // `SEFS_CALLER_*`.
  uint32_t flags;
  // Permission bits that new files do not get, with `SEFS_CALLER_UMASK`.
  uint32_t umask;
  // Further groups, or null.
  const uint32_t *groups;
  // How many.
  size_t group_count;
} sefs_caller;

// What stat(2) tells, and more.
typedef struct {
  // The inode's number.
  uint64_t ino;
  // Bytes; of a directory the number of its entries.
  uint64_t size;
  // Space in units of 512 bytes.
  uint64_t blocks_512;
  // Device number, of devices only.
  uint64_t rdev;
  // One higher with each change of anything.
  uint64_t change;
  // Last access, as it was last set.
  sefs_time atime;
  // Last change of content.
  sefs_time mtime;
  // Last change of anything.
  sefs_time ctime;
  // Creation.
  sefs_time btime;
  // Type and permission bits, as `st_mode` has them.
  uint32_t mode;
  // The owner.
  uint32_t uid;
  // The owning group.
  uint32_t gid;
  // Links.
  uint32_t links;
  // Bytes that are good to transfer at once.
  uint32_t blksize;
  // Zero.
  uint32_t reserved;
} sefs_attr;

// Which attributes to change, all or none.
typedef struct {
  // `SEFS_SET_*`.
  uint32_t valid;
  // Permission bits.
  uint32_t mode;
  // The owner.
  uint32_t uid;
  // The owning group.
  uint32_t gid;
  // The length.
  uint64_t size;
  // Last access.
  sefs_time atime;
  // Last change of content.
  sefs_time mtime;
} sefs_set_attr_change;

// One entry of a directory, handed to the callback of `sefs_read_dir`.
typedef struct {
  // The inode that it names.
  uint64_t ino;
  // Where to go on after this entry.
  uint64_t cookie;
  // The type bits of `st_mode`.
  uint32_t mode;
  // Bytes of the name.
  uint32_t name_len;
  // The name, without a zero at its end, valid during the callback.
  const uint8_t *name;
} sefs_dir_entry;

// Takes one entry; anything but 0 ends the listing after it.
typedef int (*sefs_dir_callback)(void *context, const sefs_dir_entry *entry);

// The figures of statfs(2).
typedef struct {
  // Blocks of `block_size` bytes.
  uint64_t blocks;
  // Blocks in no use, the reserve included.
  uint64_t blocks_free;
  // Blocks that writers can have.
  uint64_t blocks_available;
  // Inodes in use and possible.
  uint64_t inodes;
  // Inodes that can still be made, estimated.
  uint64_t inodes_free;
  // Bytes of a block.
  uint32_t block_size;
  // Bytes of the longest name.
  uint32_t name_max;
} sefs_stat_fs_figures;

// An image that a new volume is to lie over. All zero but `size` and `backend` is the default.
typedef struct {
  // `sizeof(sefs_new_lower)`.
  size_t size;
  // Where the packed image lies.
  const sefs_backend *backend;
  // What opens an encrypted image; null for a public one.
  const sefs_key *key;
  // 32 bytes: the root digest that it must have; a public image cannot do without.
  const uint8_t *root_digest;
  // Whatever helps to find the image again, no secret; it is stored with the volume. Or null.
  const uint8_t *note;
  // Bytes of the note, at most 4,096.
  size_t note_len;
} sefs_new_lower;

// An image that a volume lies over.
typedef struct {
  // The image's id.
  uint8_t volume_id[16];
  // The image's root digest, which binds the volume to it.
  uint8_t root_digest[32];
  // Bytes of the note on it.
  uint64_t note_len;
} sefs_lower_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the interface that this library has; at least that of the header that a program was compiled with.
uint32_t sefs_abi_version(void);

// What the last failed call of this thread failed of. Calls that succeed leave it as it is.
void sefs_last_error(sefs_error *out);

// Opens an image file or block device and locks it, as the tools do, until no volume uses it and it was freed. Null on
// failure; a missing file is not made.
sefs_backend *sefs_backend_file(const char *path,
                                int writable);

// Makes a sparse image file of so many bytes. Null on failure; an existing file is not touched.
sefs_backend *sefs_backend_new_file(const char *path, uint64_t len_bytes);

// Memory of so many bytes, zero at first; what is not written takes none.
sefs_backend *sefs_backend_memory(uint64_t len_bytes);

// A place that the program's callbacks read and write.
sefs_backend *sefs_backend_custom(const sefs_backend_ops *ops);

// Frees a handle; volumes that use the place go on. Null is nothing.
void sefs_backend_free(sefs_backend *backend);

// Opens an anchor in a file that the host cannot write to or roll back. Null on failure; a missing one is not made.
sefs_anchor *sefs_anchor_file(const char *path);

// Makes an anchor in a file. Null on failure; an existing file is not touched.
sefs_anchor *sefs_anchor_new_file(const char *path);

// An anchor that the program's callbacks read and advance.
sefs_anchor *sefs_anchor_custom(const sefs_anchor_ops *ops);

// Frees a handle; volumes that use the anchor go on. Null is nothing.
void sefs_anchor_free(sefs_anchor *anchor);

// Random bytes and time from the program's callbacks.
sefs_environment *sefs_environment_custom(const sefs_environment_ops *ops);

// Frees a handle; volumes that use the environment go on. Null is nothing.
void sefs_environment_free(sefs_environment *environment);

// Makes a volume that holds an empty root directory. Whatever was in the place is gone.
int sefs_format(const sefs_backend *backend, const sefs_key *key, const sefs_format_options *options);

// Opens a volume: authenticates it, replays its log, checks its anchor. Null on failure, and then nothing was written.
// `options` may be null. One that lies over images (`sefs_count_lowers`) is then given these with `sefs_attach_lower`. Without a key it opens a public packed image, which `options` has to pin.
sefs_volume *sefs_open(const sefs_backend *backend,
                       const sefs_key *key,
                       const sefs_open_options *options);

// Commits everything, writes a last checkpoint, and frees the volume, whatever the outcome. No other call may be under way
// on it or come later. Null is nothing.
int sefs_close(sefs_volume *volume);

// Frees a volume without writing anything more: what was not committed is lost, as in a crash.
void sefs_abandon(sefs_volume *volume);

// Tells the volume's id, 16 bytes.
int sefs_volume_id(const sefs_volume *volume, uint8_t *out);

// Finds a name in a directory; "." and ".." too.
int sefs_lookup(const sefs_volume *volume,
                const sefs_caller *who,
                uint64_t dir,
                const uint8_t *name,
                size_t name_len,
                sefs_attr *attr);

// Tells an inode's attributes.
int sefs_get_attr(const sefs_volume *volume, uint64_t ino, sefs_attr *attr);

// Changes attributes, all or none; the length of a file too. `attr`, which may be null, tells what they are afterwards.
int sefs_set_attr(const sefs_volume *volume,
                  const sefs_caller *who,
                  uint64_t ino,
                  const sefs_set_attr_change *change,
                  sefs_attr *attr);

// Whether the caller may do all of `mask` (4 read, 2 write, 1 execute).
int sefs_access(const sefs_volume *volume, const sefs_caller *who, uint64_t ino, uint32_t mask);

// Makes a file, directory, fifo, socket or device; `mode` has type and permission bits as `st_mode`.
int sefs_make(const sefs_volume *volume,
              const sefs_caller *who,
              uint64_t dir,
              const uint8_t *name,
              size_t name_len,
              uint32_t mode,
              uint64_t rdev,
              sefs_attr *attr);

// Makes a symlink that points to `target`.
int sefs_symlink(const sefs_volume *volume,
                 const sefs_caller *who,
                 uint64_t dir,
                 const uint8_t *name,
                 size_t name_len,
                 const uint8_t *target,
                 size_t target_len,
                 sefs_attr *attr);

// Makes a file without a name, acquired once; it can be linked while it is acquired.
int sefs_make_unnamed(const sefs_volume *volume,
                      const sefs_caller *who,
                      uint64_t dir,
                      uint32_t mode,
                      sefs_attr *attr);

// Gives an inode another name.
int sefs_link(const sefs_volume *volume,
              const sefs_caller *who,
              uint64_t ino,
              uint64_t dir,
              const uint8_t *name,
              size_t name_len);

// Removes a name of anything but a directory.
int sefs_unlink(const sefs_volume *volume,
                const sefs_caller *who,
                uint64_t dir,
                const uint8_t *name,
                size_t name_len);

// Removes an empty directory.
int sefs_rmdir(const sefs_volume *volume,
               const sefs_caller *who,
               uint64_t dir,
               const uint8_t *name,
               size_t name_len);

// Moves a name, or exchanges two; `flags` are `SEFS_RENAME_*`.
int sefs_rename(const sefs_volume *volume,
                const sefs_caller *who,
                uint64_t from_dir,
                const uint8_t *from_name,
                size_t from_len,
                uint64_t to_dir,
                const uint8_t *to_name,
                size_t to_len,
                uint32_t flags);

// Where a symlink points: the length of the target, of which as much as fits is in `buffer`.
int64_t sefs_read_link(const sefs_volume *volume, uint64_t ino, uint8_t *buffer, size_t len);

// Hands the entries after `cookie` (0: from the start), "." and ".." included, to a callback until it answers something
// else than 0. The callback may not call into the volume to change this directory. Returns how many it took.
int64_t sefs_read_dir(const sefs_volume *volume,
                      uint64_t dir,
                      uint64_t cookie,
                      sefs_dir_callback take,
                      void *context);

// Keeps an inode alive, linked or not, until it is released as often: what an open file does.
int sefs_acquire(const sefs_volume *volume, uint64_t ino);

// Gives back `count` acquisitions.
int sefs_release(const sefs_volume *volume, uint64_t ino, uint64_t count);

// Reads from a regular file: how many bytes, fewer than asked for only at its end.
int64_t sefs_read(const sefs_volume *volume, uint64_t ino, uint64_t offset, uint8_t *buffer, size_t len);

// Writes into a regular file: how many bytes. Up to 1 MiB is all or nothing. `flags` are `SEFS_WRITE_*`, one at most.
int64_t sefs_write(const sefs_volume *volume,
                   const sefs_caller *who,
                   uint64_t ino,
                   uint64_t offset,
                   const uint8_t *data,
                   size_t len,
                   uint32_t flags);

// Promises or gives back space; `flags` are `SEFS_ALLOCATE_*`, with the values of fallocate(2).
int sefs_allocate(const sefs_volume *volume,
                  const sefs_caller *who,
                  uint64_t ino,
                  uint64_t offset,
                  uint64_t len,
                  uint32_t flags);

// The offset of the next data (`hole` 0) or hole (`hole` 1) at or after `offset`; `-ENXIO` if there is none.
int64_t sefs_seek(const sefs_volume *volume, uint64_t ino, uint64_t offset, int hole);

// Copies a range between files: how many bytes, perhaps fewer than asked for; 0 at the end of the source.
int64_t sefs_copy_range(const sefs_volume *volume,
                        const sefs_caller *who,
                        uint64_t from,
                        uint64_t from_offset,
                        uint64_t to,
                        uint64_t to_offset,
                        uint64_t len);

// An extended attribute: the length of its value, of which as much as fits is in `buffer`.
int64_t sefs_get_xattr(const sefs_volume *volume,
                       const sefs_caller *who,
                       uint64_t ino,
                       const uint8_t *name,
                       size_t name_len,
                       uint8_t *buffer,
                       size_t len);

// Sets an extended attribute; `flags` are `SEFS_XATTR_*`, with the values of setxattr(2).
int sefs_set_xattr(const sefs_volume *volume,
                   const sefs_caller *who,
                   uint64_t ino,
                   const uint8_t *name,
                   size_t name_len,
                   const uint8_t *value,
                   size_t value_len,
                   uint32_t flags);

// The names of all extended attributes, each with a zero at its end, as listxattr(2): the length of the list, of which as
// much as fits is in `buffer`.
int64_t sefs_list_xattr(const sefs_volume *volume,
                        const sefs_caller *who,
                        uint64_t ino,
                        uint8_t *buffer,
                        size_t len);

// Removes an extended attribute.
int sefs_remove_xattr(const sefs_volume *volume,
                      const sefs_caller *who,
                      uint64_t ino,
                      const uint8_t *name,
                      size_t name_len);

// Space and inodes.
int sefs_stat_fs(const sefs_volume *volume, sefs_stat_fs_figures *out);

// Makes everything up to now durable; fsync(2) of anything is this.
int sefs_sync(const sefs_volume *volume);

// Background work: logs and flushes when due, checkpoints, reclaims. A thread of the program calls it again and again;
// the answer is after how many milliseconds, or -1 for when something was written.
int sefs_work(const sefs_volume *volume,
              int idle,
              int64_t *again_ms);

// Makes a volume over packed images, the topmost first: it has all that they have, and what is changed is stored in it. It is
// bound to them by their root digests. Root directory and owner are the images'. Whatever was in the place is gone.
int sefs_format_over(const sefs_backend *backend,
                     const sefs_key *key,
                     const sefs_format_options *options,
                     const sefs_new_lower *const *lowers,
                     size_t lower_count);

// Tells how many images the volume lies over; 0 for one that stands alone.
int64_t sefs_count_lowers(const sefs_volume *volume);

// Tells which image the volume lies over at a place, from 0 down: its id, its root digest, and how long its note is.
int sefs_get_lower(const sefs_volume *volume,
                   size_t place,
                   sefs_lower_info *out);

// Fills `buffer` with the note on an image, cut to what fits, and tells how long the whole note is. It is what `sefs_format_over`
// was given, or of a volume that mkfs.sefs made the image's path and the names of its key sources.
int64_t sefs_get_lower_note(const sefs_volume *volume,
                            size_t place,
                            uint8_t *buffer,
                            size_t len);

// Puts the next image below an open volume, from the topmost down: all of them, before any call but the three above and those that
// free the volume. No other call may be under way on it. A public image has no key. Another image than the volume was made over
// is refused.
int sefs_attach_lower(sefs_volume *volume,
                      const sefs_backend *backend,
                      const sefs_key *key);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SEFS_H */
