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

/* The real user of a thread: not the owner of its directory in /proc, which is root where it cannot be dumped. */
static int user_of(pid_t tid, unsigned *user) {
    char path[32], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) {
        close(fd);
    }
    text[size < 0 ? 0 : size] = 0;
    const char *line = strstr(text, "\nUid:");
    return line == NULL || sscanf(line, "\nUid: %u", user) != 1 ? -1 : 0;
}

/* End the file systems of the user whose thread it is, or with `all` those of every user but root: a file may have been
 * handed over. How many. */
int abort_fuse(pid_t tid, int all) {
    unsigned user;
    if (user_of(tid, &user) < 0 || (user == 0 && !all)) {
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
            (!all && file.st_uid != user)) {
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
