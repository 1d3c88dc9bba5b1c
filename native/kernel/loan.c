/* O_NONBLOCK is lent to an app's file for one call, connect(2) or accept(2), so that we never wait for it.
 *
 * A switch that is killed before it has taken it back would leave a file on which the app's own calls do not wait any
 * more. So what is lent is written down first, in memory that outlives the switch, and its successor takes it back
 * (switch/estate.py). One at a time: only the loop lends.
 */
#include "kernel.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

static struct loan nobody_knows;
static struct loan *noted = &nobody_knows;

/* `flags` are the file's own. */
void lend(int fd, int flags) {
    if (!(flags & O_NONBLOCK)) {
        noted->flags = flags;
        atomic_signal_fence(memory_order_seq_cst); /* the number says that the flags are right */
        noted->number = fd;
        atomic_signal_fence(memory_order_seq_cst);
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    }
}

void take_back(int fd, int flags) {
    if (!(flags & O_NONBLOCK)) {
        fcntl(fd, F_SETFL, flags);
        atomic_signal_fence(memory_order_seq_cst);
        noted->number = 0;
    }
}

/* note_loans(memory): from now on in the journal, a memfd. */
PyObject *k_note_loans(ARGS) {
    if (arity("note_loans", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct stat file;
    if (fstat(fd, &file) < 0 || file.st_size < LOAN_AT + (off_t)sizeof *noted) { /* else what is written ends us */
        PyErr_SetString(PyExc_ValueError, "the journal has no room for loans");
        return NULL;
    }
    const off_t within = LOAN_AT % sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, (size_t)within + sizeof *noted, PROT_READ | PROT_WRITE, MAP_SHARED, fd, LOAN_AT - within);
    if (page == MAP_FAILED) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    noted = (struct loan *)(void *)(page + within);
    Py_RETURN_NONE;
}
