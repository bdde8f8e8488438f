/* What a LibOS in C does with libsefs: every function of sefs.h is called, and what fails is said by line. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "sefs.h"

#define NAME(text) (const uint8_t *)(text), strlen(text)
#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            sefs_error error;                                                                 \
            sefs_last_error(&error);                                                          \
            fprintf(stderr, "%s:%d: %s: last error %d, kind %d: %s\n", __FILE__, __LINE__,    \
                    #condition, error.number, (int)error.kind, error.text);                   \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

enum { IMAGE_BYTES = 16 << 20 };

/* A backend, an anchor and an environment of the program's own. */
static struct {
    uint8_t *bytes;
    int flushes, drops;
    pthread_mutex_t lock;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};
static sefs_anchor_state anchored;

static int disk_read(void *context, uint64_t offset, uint8_t *buffer, size_t len) {
    CHECK(context == &disk);
    if (offset + len > IMAGE_BYTES) return EIO;
    pthread_mutex_lock(&disk.lock);
    memcpy(buffer, disk.bytes + offset, len);
    pthread_mutex_unlock(&disk.lock);
    return 0;
}

static int disk_write(void *context, uint64_t offset, const uint8_t *buffer, size_t len) {
    CHECK(context == &disk);
    if (offset + len > IMAGE_BYTES) return ENOSPC;
    pthread_mutex_lock(&disk.lock);
    memcpy(disk.bytes + offset, buffer, len);
    pthread_mutex_unlock(&disk.lock);
    return 0;
}

static int disk_flush(void *context) {
    CHECK(context == &disk);
    __atomic_fetch_add(&disk.flushes, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static int disk_discard(void *context, uint64_t offset, uint64_t len) {
    CHECK(context == &disk && offset + len <= IMAGE_BYTES);
    return 0;
}

static int disk_length(void *context, uint64_t *len) {
    CHECK(context == &disk);
    *len = IMAGE_BYTES;
    return 0;
}

static int anchor_read(void *context, sefs_anchor_state *state) {
    (void)context;
    *state = anchored;
    return 0;
}

static int anchor_advance(void *context, const sefs_anchor_state *from, const sefs_anchor_state *to) {
    (void)context;
    if (from->counter != anchored.counter || memcmp(from->digest, anchored.digest, 32) != 0) return EEXIST;
    if (to->counter <= from->counter) return EEXIST;
    anchored = *to;
    return 0;
}

static int random_bytes(void *context, uint8_t *buffer, size_t len) {
    return fread(buffer, 1, len, context) == len ? 0 : EIO;
}

static void fixed_time(void *context, sefs_time *time) {
    (void)context;
    *time = (sefs_time){.seconds = 1000000000, .nanoseconds = 5};
}

static const uint8_t secret[32] = "thirty-two bytes of a key file.";
static const sefs_key key = {.kind = SEFS_KEY_KIND_RAW_KEY, .bytes = secret, .len = sizeof secret};

static sefs_backend *own_backend(void) {
    sefs_backend_ops ops = {.size = sizeof ops, .context = &disk, .read = disk_read, .write = disk_write,
                            .flush = disk_flush, .discard = disk_discard, .length = disk_length};
    sefs_backend *backend = sefs_backend_custom(&ops);
    CHECK(backend);
    return backend;
}

struct seen {
    int count;
    char names[256];
};

static int see(void *context, const sefs_dir_entry *entry) {
    struct seen *seen = context;
    seen->count++;
    strncat(seen->names, (const char *)entry->name, entry->name_len);
    strcat(seen->names, "/");
    return 0;
}

static int one_only(void *context, const sefs_dir_entry *entry) {
    *(uint64_t *)context = entry->cookie;
    return 1;
}

static void files(sefs_volume *volume) {
    sefs_attr attr, other;
    sefs_caller user = {.uid = 1000, .gid = 1000, .flags = SEFS_CALLER_CHECK | SEFS_CALLER_UMASK, .umask = 022};
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("home"), S_IFDIR | 0777, 0, &attr) == 0);
    CHECK(attr.ctime.seconds == 1000000000 && attr.ctime.nanoseconds == 5);
    uint64_t home = attr.ino;
    CHECK(sefs_make(volume, &user, home, NAME("file"), S_IFREG | 0666, 0, &attr) == 0);
    CHECK(attr.uid == 1000 && attr.mode == (S_IFREG | 0644));
    CHECK(sefs_make(volume, &user, home, NAME("file"), S_IFREG | 0666, 0, NULL) == -EEXIST);
    CHECK(sefs_write(volume, &user, attr.ino, 0, (const uint8_t *)"hello ", 6, 0) == 6);
    CHECK(sefs_write(volume, &user, attr.ino, 0, (const uint8_t *)"world", 5, SEFS_WRITE_APPEND) == 5);
    char text[32] = {0};
    CHECK(sefs_read(volume, attr.ino, 0, (uint8_t *)text, sizeof text) == 11 && !strcmp(text, "hello world"));
    CHECK(sefs_lookup(volume, &user, home, NAME("file"), &other) == 0 && other.ino == attr.ino && other.size == 11);
    CHECK(sefs_lookup(volume, &user, home, NAME("nothing"), &other) == -ENOENT);
    CHECK(sefs_access(volume, &user, attr.ino, 6) == 0);
    CHECK(sefs_access(volume, &user, SEFS_ROOT, 2) == -EACCES);

    sefs_set_attr_change change = {.valid = SEFS_SET_MODE | SEFS_SET_SIZE | SEFS_SET_MTIME, .mode = 0600, .size = 5,
                                   .mtime = {.seconds = 7}};
    CHECK(sefs_set_attr(volume, &user, attr.ino, &change, &other) == 0);
    CHECK(other.size == 5 && other.mtime.seconds == 7 && other.mode == (S_IFREG | 0600));
    CHECK(sefs_get_attr(volume, attr.ino, &other) == 0 && other.size == 5);
    change.valid = 1u << 31;
    CHECK(sefs_set_attr(volume, &user, attr.ino, &change, NULL) == -EINVAL);

    CHECK(sefs_link(volume, NULL, attr.ino, home, NAME("second")) == 0);
    CHECK(sefs_rename(volume, NULL, home, NAME("second"), SEFS_ROOT, NAME("moved"), SEFS_RENAME_NOREPLACE) == 0);
    CHECK(sefs_rename(volume, NULL, SEFS_ROOT, NAME("moved"), home, NAME("file"), SEFS_RENAME_NOREPLACE) == -EEXIST);
    CHECK(sefs_symlink(volume, NULL, home, NAME("link"), NAME("../moved"), &other) == 0);
    CHECK(sefs_read_link(volume, other.ino, (uint8_t *)text, 4) == 8 && !memcmp(text, "../m", 4));

    struct seen seen = {0};
    CHECK(sefs_read_dir(volume, home, 0, see, &seen) == 4 && seen.count == 4);
    CHECK(strstr(seen.names, "file/") && strstr(seen.names, "link/") && strstr(seen.names, "../"));
    uint64_t cookie = 0;
    CHECK(sefs_read_dir(volume, home, 0, one_only, &cookie) == 1);
    seen = (struct seen){0};
    CHECK(sefs_read_dir(volume, home, cookie, see, &seen) == 3);

    CHECK(sefs_set_xattr(volume, NULL, attr.ino, NAME("user.a"), NAME("value"), SEFS_XATTR_CREATE) == 0);
    CHECK(sefs_set_xattr(volume, NULL, attr.ino, NAME("user.a"), NAME("value"), SEFS_XATTR_CREATE) == -EEXIST);
    CHECK(sefs_get_xattr(volume, NULL, attr.ino, NAME("user.a"), (uint8_t *)text, sizeof text) == 5);
    CHECK(sefs_list_xattr(volume, NULL, attr.ino, NULL, 0) == 7);
    CHECK(sefs_remove_xattr(volume, NULL, attr.ino, NAME("user.a")) == 0);
    CHECK(sefs_get_xattr(volume, NULL, attr.ino, NAME("user.a"), NULL, 0) == -ENODATA);

    /* A file that is open lives on without a name. */
    CHECK(sefs_acquire(volume, attr.ino) == 0);
    CHECK(sefs_unlink(volume, NULL, home, NAME("file")) == 0 && sefs_unlink(volume, NULL, SEFS_ROOT, NAME("moved")) == 0);
    CHECK(sefs_read(volume, attr.ino, 0, (uint8_t *)text, sizeof text) == 5);
    CHECK(sefs_release(volume, attr.ino, 1) == 0);
    CHECK(sefs_make_unnamed(volume, NULL, home, S_IFREG | 0600, &other) == 0);
    CHECK(sefs_link(volume, NULL, other.ino, home, NAME("named")) == 0 && sefs_release(volume, other.ino, 1) == 0);

    CHECK(sefs_allocate(volume, NULL, other.ino, 0, 1 << 20, 0) == 0);
    CHECK(sefs_write(volume, NULL, other.ino, 1 << 18, secret, 32, 0) == 32);
    CHECK(sefs_allocate(volume, NULL, other.ino, 0, 4096, SEFS_ALLOCATE_PUNCH_HOLE | SEFS_ALLOCATE_KEEP_SIZE) == 0);
    CHECK(sefs_allocate(volume, NULL, other.ino, 0, 4096, SEFS_ALLOCATE_PUNCH_HOLE) == -EOPNOTSUPP);
    CHECK(sefs_seek(volume, other.ino, 0, 0) == 1 << 18);
    CHECK(sefs_seek(volume, other.ino, 2 << 20, 0) == -ENXIO);
    CHECK(sefs_make(volume, NULL, home, NAME("copy"), S_IFREG | 0600, 0, &attr) == 0);
    CHECK(sefs_copy_range(volume, NULL, other.ino, 1 << 18, attr.ino, 0, 32) == 32);
    CHECK(sefs_rmdir(volume, NULL, SEFS_ROOT, NAME("home")) == -ENOTEMPTY);

    sefs_stat_fs_figures figures;
    CHECK(sefs_stat_fs(volume, &figures) == 0 && figures.block_size == 4096 && figures.name_max == SEFS_NAME_MAX);
    int64_t again_ms;
    CHECK(sefs_work(volume, 1, &again_ms) == 0);
    CHECK(sefs_sync(volume) == 0);
}

static void *writer(void *context) {
    sefs_volume *volume = context;
    char name[32];
    sefs_attr attr;
    for (int number = 0; number < 50; number++) {
        snprintf(name, sizeof name, "%lx-%d", (unsigned long)pthread_self(), number);
        CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME(name), S_IFREG | 0600, 0, &attr) == 0);
        CHECK(sefs_write(volume, NULL, attr.ino, 0, secret, 32, 0) == 32);
    }
    return NULL;
}

static void threads(sefs_volume *volume) {
    pthread_t threads[4];
    for (int number = 0; number < 4; number++) CHECK(pthread_create(&threads[number], NULL, writer, volume) == 0);
    for (int number = 0; number < 4; number++) pthread_join(threads[number], NULL);
    struct seen seen = {0};
    (void)seen;
    CHECK(sefs_sync(volume) == 0);
}

static void expect(int number, sefs_error_kind kind) {
    sefs_error error;
    sefs_last_error(&error);
    if (error.number != number || error.kind != kind) {
        fprintf(stderr, "expected %d of kind %d, got %d of kind %d: %s\n", number, (int)kind, error.number,
                (int)error.kind, error.text);
        exit(1);
    }
}

static void own_host(void) {
    disk.bytes = calloc(1, IMAGE_BYTES);
    FILE *urandom = fopen("/dev/urandom", "rb");
    CHECK(disk.bytes && urandom);
    sefs_backend *backend = own_backend();
    sefs_anchor_ops anchor_ops = {.size = sizeof anchor_ops, .identity = {1}, .read = anchor_read, .advance = anchor_advance};
    sefs_anchor *anchor = sefs_anchor_custom(&anchor_ops);
    sefs_environment_ops env_ops = {.size = sizeof env_ops, .context = urandom, .random = random_bytes, .time = fixed_time};
    sefs_environment *env = sefs_environment_custom(&env_ops);
    CHECK(anchor && env);
    sefs_format_options format = {.size = sizeof format, .size_bytes = IMAGE_BYTES, .label = "from C", .anchor = anchor,
                                  .environment = env};
    CHECK(sefs_format(backend, &key, &format) == 0);
    sefs_open_options options = {.size = sizeof options, .memory_bytes = 4 << 20, .anchor = anchor, .environment = env};
    sefs_volume *volume = sefs_open(backend, &key, &options);
    CHECK(volume);
    files(volume);
    threads(volume);
    uint8_t id[16] = {0}, nothing[16] = {0};
    CHECK(sefs_volume_id(volume, id) == 0 && memcmp(id, nothing, 16) != 0);
    CHECK(disk.flushes > 0);
    uint8_t *older = malloc(IMAGE_BYTES);
    CHECK(older);
    memcpy(older, disk.bytes, IMAGE_BYTES);
    sefs_attr attr;
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("newest"), S_IFREG | 0600, 0, &attr) == 0);
    CHECK(sefs_close(volume) == 0);

    /* An older image is refused; so is one without its anchor, a wrong key, another volume. */
    uint8_t *newest = disk.bytes;
    disk.bytes = older;
    CHECK(!sefs_open(backend, &key, &options));
    expect(EIO, SEFS_ERROR_KIND_ROLLED_BACK);
    disk.bytes = newest;
    options.anchor = NULL;
    CHECK(!sefs_open(backend, &key, &options));
    expect(EINVAL, SEFS_ERROR_KIND_INCOMPATIBLE);
    options.anchor = anchor;
    uint8_t wrong[32] = {0};
    sefs_key other = {.kind = SEFS_KEY_KIND_RAW_KEY, .bytes = wrong, .len = 32};
    CHECK(!sefs_open(backend, &other, &options));
    expect(ENOKEY, SEFS_ERROR_KIND_WRONG_KEY);
    options.volume_id = wrong;
    CHECK(!sefs_open(backend, &key, &options));
    expect(EINVAL, SEFS_ERROR_KIND_INCOMPATIBLE);
    options.volume_id = id;

    /* Read-only changes nothing. */
    memcpy(older, newest, IMAGE_BYTES);
    options.flags = SEFS_OPEN_READ_ONLY;
    CHECK((volume = sefs_open(backend, &key, &options)));
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("newest"), &attr) == 0);
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("more"), S_IFREG | 0600, 0, NULL) == -EROFS);
    CHECK(sefs_close(volume) == 0 && !memcmp(older, newest, IMAGE_BYTES));

    /* A changed byte is noticed, and says whose fault it is. */
    options.flags = 0;
    memset(disk.bytes + 16384, 0x55, 65536);
    CHECK(!sefs_open(backend, &key, &options));
    sefs_error error;
    sefs_last_error(&error);
    CHECK(error.kind == SEFS_ERROR_KIND_TAMPERED || error.kind == SEFS_ERROR_KIND_ROLLED_BACK);
    sefs_backend_free(backend);
    sefs_anchor_free(anchor);
    sefs_environment_free(env);
    free(older);
    free(newest);
    fclose(urandom);
}

static void files_of_the_system(const char *folder) {
    char image[512], anchor_path[512];
    snprintf(image, sizeof image, "%s/c.sefs", folder);
    snprintf(anchor_path, sizeof anchor_path, "%s/c.anchor", folder);
    CHECK(!sefs_backend_file(image, 1));
    expect(ENOENT, SEFS_ERROR_KIND_BACKEND);
    CHECK(!sefs_anchor_file(anchor_path));
    sefs_backend *backend = sefs_backend_new_file(image, IMAGE_BYTES);
    sefs_anchor *anchor = sefs_anchor_new_file(anchor_path);
    CHECK(backend && anchor);
    CHECK(!sefs_backend_new_file(image, IMAGE_BYTES) && !sefs_anchor_new_file(anchor_path));
    CHECK(!sefs_backend_file(image, 1));
    expect(EBUSY, SEFS_ERROR_KIND_BACKEND);
    sefs_format_options format = {.size = sizeof format, .size_bytes = IMAGE_BYTES, .anchor = anchor, .anchor_policy = 1};
    CHECK(sefs_format(backend, &key, &format) == 0);
    sefs_open_options options = {.size = sizeof options, .anchor = anchor};
    sefs_volume *volume = sefs_open(backend, &key, &options);
    CHECK(volume);
    sefs_attr attr;
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("from-c"), S_IFREG | 0644, 0, &attr) == 0);
    CHECK(sefs_write(volume, NULL, attr.ino, 0, NAME("hello from C\n"), 0) == 13);
    CHECK(sefs_close(volume) == 0);
    sefs_backend_free(backend);
    sefs_anchor_free(anchor);
}

/* The measured image that the test made: /motd, pinned by its root digest. */
static void image(const char *path, const char *digest_path) {
    uint8_t digest[32];
    FILE *file = fopen(digest_path, "rb");
    CHECK(file && fread(digest, 1, 32, file) == 32 && fclose(file) == 0);
    sefs_backend *backend = sefs_backend_file(path, 0);
    sefs_open_options options = {.size = sizeof options};
    CHECK(backend && !sefs_open(backend, NULL, NULL) && !sefs_open(backend, NULL, &options));
    expect(EINVAL, SEFS_ERROR_KIND_INCOMPATIBLE);
    options.root_digest = digest;
    CHECK(!sefs_open(backend, &key, &options));
    sefs_volume *volume = sefs_open(backend, NULL, &options);
    CHECK(volume);
    sefs_attr attr;
    char text[16] = {0};
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("motd"), &attr) == 0);
    CHECK(sefs_read(volume, attr.ino, 0, (uint8_t *)text, sizeof text) == 8 && !strcmp(text, "welcome\n"));
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("more"), S_IFREG | 0600, 0, NULL) == -EROFS);
    CHECK(sefs_close(volume) == 0);
    digest[31] ^= 1;
    CHECK(!sefs_open(backend, NULL, &options));
    sefs_backend_free(backend);
}

/* A volume over the measured image: what the image has is there, what is changed stays, and another image is refused. */
static void layers(const char *path, const char *digest_path) {
    uint8_t digest[32];
    FILE *file = fopen(digest_path, "rb");
    CHECK(file && fread(digest, 1, 32, file) == 32 && fclose(file) == 0);
    sefs_backend *base = sefs_backend_file(path, 0), *top = sefs_backend_memory(IMAGE_BYTES);
    sefs_format_options format = {.size = sizeof format, .size_bytes = IMAGE_BYTES};
    sefs_new_lower lower = {.size = sizeof lower, .backend = base, .note = (const uint8_t *)"/base", .note_len = 5};
    const sefs_new_lower *lowers[] = {&lower, &lower};
    CHECK(sefs_format_over(top, &key, &format, lowers, 1) == -EINVAL);
    expect(EINVAL, SEFS_ERROR_KIND_INCOMPATIBLE);
    lower.root_digest = digest;
    CHECK(sefs_format_over(top, &key, &format, lowers, 0) == -EINVAL);
    CHECK(sefs_format_over(top, &key, &format, lowers, 1) == 0);

    sefs_volume *volume = sefs_open(top, &key, NULL);
    sefs_lower_info info;
    uint8_t note[3];
    CHECK(volume && sefs_count_lowers(volume) == 1);
    CHECK(sefs_get_lower(volume, 0, &info) == 0 && !memcmp(info.root_digest, digest, 32) && info.note_len == 5);
    CHECK(sefs_get_lower_note(volume, 0, note, sizeof note) == 5 && !memcmp(note, "/ba", 3));
    CHECK(sefs_get_lower(volume, 1, &info) == -EINVAL && sefs_get_lower_note(volume, 1, NULL, 0) == -EINVAL);
    sefs_attr attr;
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("motd"), &attr) == -EINVAL);
    expect(EINVAL, SEFS_ERROR_KIND_INCOMPATIBLE);
    CHECK(sefs_attach_lower(volume, base, &key) < 0 && sefs_attach_lower(volume, top, &key) < 0);
    CHECK(sefs_attach_lower(NULL, base, NULL) == -EINVAL && sefs_attach_lower(volume, NULL, NULL) == -EINVAL);
    CHECK(sefs_attach_lower(volume, base, NULL) == 0);
    CHECK(sefs_attach_lower(volume, base, NULL) == -EINVAL);

    char text[16] = {0};
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("motd"), &attr) == 0);
    CHECK(sefs_read(volume, attr.ino, 0, (uint8_t *)text, sizeof text) == 8 && !strcmp(text, "welcome\n"));
    CHECK(sefs_write(volume, NULL, attr.ino, 0, NAME("W"), 0) == 1);
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("more"), S_IFREG | 0600, 0, NULL) == 0);
    CHECK(sefs_close(volume) == 0);
    CHECK((volume = sefs_open(top, &key, NULL)) && sefs_attach_lower(volume, base, NULL) == 0);
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("motd"), &attr) == 0);
    CHECK(sefs_read(volume, attr.ino, 0, (uint8_t *)text, sizeof text) == 8 && !strcmp(text, "Welcome\n"));
    CHECK(sefs_unlink(volume, NULL, SEFS_ROOT, NAME("motd")) == 0);
    struct seen seen = {0};
    CHECK(sefs_read_dir(volume, SEFS_ROOT, 0, see, &seen) == 3 && strstr(seen.names, "more/"));
    CHECK(sefs_close(volume) == 0);
    sefs_backend_free(base);
    sefs_backend_free(top);
}

static void mistakes(void) {
    sefs_error error;
    CHECK(sefs_abi_version() >= SEFS_ABI_VERSION);
    CHECK(sefs_sync(NULL) == -EINVAL);
    expect(EINVAL, SEFS_ERROR_KIND_INVALID);
    CHECK(sefs_close(NULL) == 0);
    sefs_abandon(NULL);
    sefs_backend_free(NULL);
    sefs_backend *backend = sefs_backend_memory(IMAGE_BYTES);
    CHECK(backend);
    CHECK(!sefs_open(backend, &key, NULL));
    expect(EINVAL, SEFS_ERROR_KIND_MALFORMED);
    sefs_format_options format = {.size = sizeof format, .size_bytes = IMAGE_BYTES};
    sefs_key short_key = {.kind = SEFS_KEY_KIND_RAW_KEY, .bytes = secret, .len = 31};
    CHECK(sefs_format(backend, &short_key, &format) == -EINVAL);
    sefs_key volume_key = {.kind = SEFS_KEY_KIND_VOLUME, .bytes = secret, .len = 32};
    CHECK(sefs_format(backend, &volume_key, &format) == 0);
    /* A field that this library does not know is not overlooked. */
    struct { sefs_open_options known; uint64_t unknown; } newer = {{.size = sizeof newer}, 1};
    CHECK(!sefs_open(backend, &volume_key, &newer.known));
    expect(EINVAL, SEFS_ERROR_KIND_INVALID);
    newer.unknown = 0;
    sefs_volume *volume = sefs_open(backend, &volume_key, &newer.known);
    CHECK(volume);
    sefs_attr attr;
    CHECK(sefs_make(volume, NULL, SEFS_ROOT, NAME("lost"), S_IFREG | 0644, 0, &attr) == 0);
    sefs_abandon(volume);
    CHECK((volume = sefs_open(backend, &volume_key, NULL)));
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NAME("lost"), &attr) == -ENOENT);
    CHECK(sefs_lookup(volume, NULL, SEFS_ROOT, NULL, 3, &attr) == -EINVAL);
    CHECK(sefs_close(volume) == 0);
    sefs_last_error(&error);
    sefs_backend_free(backend);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    image(arguments[2], arguments[3]);
    layers(arguments[2], arguments[3]);
    own_host();
    files_of_the_system(arguments[1]);
    mistakes();
    puts("ok");
    return 0;
}
