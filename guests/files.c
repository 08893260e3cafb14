// A file tool: each subcommand is a few calls of the POSIX layer, so each is a few calls of WASI.
// A failing call prints "<subcommand>: <strerror>" to standard error and the status is 1; a wrong use is 64.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *usage =
    "usage: files SUBCOMMAND ARGS\n"
    "  cat [PATH]             standard input when there is no path\n"
    "  ls PATH                names with kind, sorted, without . and ..\n"
    "  write PATH TEXT        creates or truncates\n"
    "  append PATH TEXT\n"
    "  create PATH TEXT       fails if it exists\n"
    "  patch PATH OFFSET TEXT writes at an offset (pwrite)\n"
    "  slice PATH OFFSET LEN  reads at an offset (pread)\n"
    "  tail PATH LEN          seeks from the end\n"
    "  truncate PATH LEN\n"
    "  mkdir PATH | rmdir PATH | rm PATH\n"
    "  mv OLD NEW | ln OLD NEW | symlink TARGET PATH | readlink PATH\n"
    "  stat PATH | lstat PATH kind and size\n"
    "  touch PATH SECONDS     sets both times\n"
    "  mtime PATH\n"
    "  sync PATH\n"
    "  copy FROM TO\n";

static const char *subcommand;

static int failed(void) {
    fprintf(stderr, "%s: %s\n", subcommand, strerror(errno));
    return 1;
}

static int copy_out(int from, int to) {
    char buffer[4096];
    for (;;) {
        ssize_t got = read(from, buffer, sizeof buffer);
        if (got < 0) return failed();
        if (got == 0) return 0;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(to, buffer + done, (size_t)(got - done));
            if (put < 0) return failed();
            done += put;
        }
    }
}

static int write_to(const char *path, int flags, const char *text) {
    int fd = open(path, O_WRONLY | flags, 0644);
    if (fd < 0) return failed();
    size_t length = strlen(text);
    if (write(fd, text, length) != (ssize_t)length) return failed();
    return close(fd) < 0 ? failed() : 0;
}

static const char *kind_of(mode_t mode) {
    if (S_ISREG(mode)) return "file";
    if (S_ISDIR(mode)) return "directory";
    if (S_ISLNK(mode)) return "symlink";
    return "other";
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int list(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) return failed();
    char **names = NULL;
    size_t count = 0;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        names = realloc(names, (count + 1) * sizeof *names);
        if (!names) return failed();
        names[count++] = strdup(entry->d_name);
    }
    if (errno) return failed();
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        char full[1024];
        struct stat s;
        snprintf(full, sizeof full, "%s/%s", path, names[i]);
        if (lstat(full, &s) < 0) return failed();
        printf("%s %s\n", kind_of(s.st_mode), names[i]);
    }
    return 0;
}

static int slice(const char *path, off_t offset, size_t length, int from_end) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return failed();
    char *buffer = malloc(length + 1);
    if (!buffer) return failed();
    ssize_t got;
    if (from_end) {
        if (lseek(fd, -(off_t)length, SEEK_END) < 0) return failed();
        got = read(fd, buffer, length);
    } else {
        got = pread(fd, buffer, length, offset);
    }
    if (got < 0) return failed();
    fwrite(buffer, 1, (size_t)got, stdout);
    putchar('\n');
    return 0;
}

static int patch(const char *path, off_t offset, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return failed();
    size_t length = strlen(text);
    if (pwrite(fd, text, length, offset) != (ssize_t)length) return failed();
    return 0;
}

int main(int argc, char **argv) {
    subcommand = argc > 1 ? argv[1] : "";
    const char *a = argc > 2 ? argv[2] : NULL, *b = argc > 3 ? argv[3] : NULL, *c = argc > 4 ? argv[4] : NULL;
    struct stat s;
#define IS(name, args) (strcmp(subcommand, name) == 0 && argc == 2 + (args))
    if (IS("cat", 0)) return copy_out(0, 1);
    if (IS("cat", 1)) {
        int fd = open(a, O_RDONLY);
        return fd < 0 ? failed() : copy_out(fd, 1);
    }
    if (IS("ls", 1)) return list(a);
    if (IS("write", 2)) return write_to(a, O_CREAT | O_TRUNC, b);
    if (IS("append", 2)) return write_to(a, O_CREAT | O_APPEND, b);
    if (IS("create", 2)) return write_to(a, O_CREAT | O_EXCL, b);
    if (IS("patch", 3)) return patch(a, atol(b), c);
    if (IS("slice", 3)) return slice(a, atol(b), (size_t)atol(c), 0);
    if (IS("tail", 2)) return slice(a, 0, (size_t)atol(b), 1);
    if (IS("truncate", 2)) return truncate(a, atol(b)) < 0 ? failed() : 0;
    if (IS("mkdir", 1)) return mkdir(a, 0755) < 0 ? failed() : 0;
    if (IS("rmdir", 1)) return rmdir(a) < 0 ? failed() : 0;
    if (IS("rm", 1)) return unlink(a) < 0 ? failed() : 0;
    if (IS("mv", 2)) return rename(a, b) < 0 ? failed() : 0;
    if (IS("ln", 2)) return link(a, b) < 0 ? failed() : 0;
    if (IS("symlink", 2)) return symlink(a, b) < 0 ? failed() : 0;
    if (IS("readlink", 1)) {
        char target[1024];
        ssize_t length = readlink(a, target, sizeof target);
        if (length < 0) return failed();
        printf("%.*s\n", (int)length, target);
        return 0;
    }
    if (IS("stat", 1) || IS("lstat", 1)) {
        if ((subcommand[0] == 'l' ? lstat(a, &s) : stat(a, &s)) < 0) return failed();
        if (S_ISREG(s.st_mode)) printf("file %lld\n", (long long)s.st_size);
        else printf("%s\n", kind_of(s.st_mode));
        return 0;
    }
    if (IS("touch", 2)) {
        struct timespec times[2] = {{atol(b), 0}, {atol(b), 0}};
        return utimensat(AT_FDCWD, a, times, 0) < 0 ? failed() : 0;
    }
    if (IS("mtime", 1)) {
        if (stat(a, &s) < 0) return failed();
        printf("%lld\n", (long long)s.st_mtim.tv_sec);
        return 0;
    }
    if (IS("sync", 1)) {
        int fd = open(a, O_RDWR);
        return fd < 0 || fsync(fd) < 0 ? failed() : 0;
    }
    if (IS("copy", 2)) {
        int from = open(a, O_RDONLY);
        if (from < 0) return failed();
        int to = open(b, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        return to < 0 ? failed() : copy_out(from, to);
    }
    fputs(usage, stderr);
    return 64;
}
