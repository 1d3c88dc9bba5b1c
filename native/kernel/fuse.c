/* Memory that does not come: a file of FUSE behind an app's address, whose server says nothing. process_vm_readv(2)
 * waits for it, and no signal but SIGKILL ends that. What does is the end of the file system: fuse(4), fusectl. */
#include "kernel.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/mount.h>

#ifndef FSOPEN_CLOEXEC /* older C libraries */
#define FSOPEN_CLOEXEC 1
#define FSMOUNT_CLOEXEC 1
#define FSCONFIG_CMD_CREATE 6
#endif

/* The list of connections, wherever it is mounted: a directory for each. -1 where we may not. */
static int list_of_connections(void) {
    int file_system = (int)syscall(SYS_fsopen, "fusectl", FSOPEN_CLOEXEC), place = -1;
    if (file_system >= 0) {
        if (syscall(SYS_fsconfig, file_system, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
            place = (int)syscall(SYS_fsmount, file_system, FSMOUNT_CLOEXEC, 0);
        }
        close(file_system);
    }
    return place < 0 ? open("/sys/fs/fuse/connections", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : place;
}

/* The beginning of a file: how many bytes, with a NUL behind them; 0 where it cannot be read. */
static size_t head_of(int directory, const char *path, char *text, size_t room) {
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, room - 1);
    if (fd >= 0) {
        close(fd);
    }
    text[size < 0 ? 0 : size] = 0;
    return size < 0 ? 0 : (size_t)size;
}

/* The real user of a thread: not the owner of its directory in /proc, which is root where it cannot be dumped. */
static int user_of(pid_t tid, unsigned *user) {
    char path[32], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    head_of(AT_FDCWD, path, text, sizeof text);
    const char *line = strstr(text, "\nUid:");
    return line == NULL || sscanf(line, "\nUid: %u", user) != 1 ? -1 : 0;
}

/* Whether one of our threads waits for a file's page, not for one that was swapped out (nor for a processor): where the
 * kernel tells, proc_pid_stack(5). */
static int waits_for_file(pid_t own) {
    char path[48], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/stack", (int)own);
    return head_of(AT_FDCWD, path, text, sizeof text) == 0 || strstr(text, "fuse_") != NULL ||
           strstr(text, "filemap_fault") != NULL;
}

/* Whether somebody waits for its server. */
static int is_asked(int list, const char *name) {
    char path[NAME_MAX + 16], text[32];
    snprintf(path, sizeof path, "%s/waiting", name);
    return head_of(list, path, text, sizeof text) == 0 || atoi(text) > 0;
}

/* `own`, a thread of ours, waits for memory of the thread `tid`. End the file systems of that one's user which do not
 * answer, or with `all` those of every user but root: a file may have been handed over. How many. */
int abort_fuse(pid_t own, pid_t tid, int all) {
    unsigned user;
    if (!waits_for_file(own) || user_of(tid, &user) < 0 || (user == 0 && !all)) {
        return 0;
    }
    int list = list_of_connections(), again = list < 0 ? -1 : openat(list, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *connections = again < 0 ? NULL : fdopendir(again);
    int ended = 0;
    struct dirent *one;
    while (connections != NULL && (one = readdir(connections)) != NULL) {
        char path[sizeof one->d_name + 8];
        struct stat file;
        snprintf(path, sizeof path, "%s/abort", one->d_name);
        if (*one->d_name == '.' || fstatat(list, path, &file, AT_SYMLINK_NOFOLLOW) < 0 || file.st_uid == 0 ||
            (!all && file.st_uid != user) || !is_asked(list, one->d_name)) {
            continue;
        }
        int fd = openat(list, path, O_WRONLY | O_CLOEXEC);
        ended += fd >= 0 && write(fd, "1", 1) == 1;
        if (fd >= 0) {
            close(fd);
        }
    }
    if (connections != NULL) {
        closedir(connections);
    } else if (again >= 0) {
        close(again);
    }
    if (list >= 0) {
        close(list);
    }
    return ended;
}
