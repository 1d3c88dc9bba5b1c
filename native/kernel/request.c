/* The head of an ordinary HTTP/1 request, read in one step: most first bytes are one. */
#include "kernel.h"

/* What is no ordinary request is read by routing/l7/http1.py, and whatever is read here is read alike there
 * (tests/unit/kernel/test_request.py): origin-form, printable ASCII, CRLF, every line a header with a name of its own.
 */
enum { MAX_HEADERS = 64, MAX_NAME = 128, MAX_TEXT = 4096 };

struct text {
    const char *start;
    Py_ssize_t size;
};

static int is_token(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != 0 && strchr("!#$%&'*+.^_`|~-", c) != NULL);
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static int put(PyObject *found, const char *key, struct text value) {
    PyObject *text = PyUnicode_FromStringAndSize(value.start, value.size);
    int status = text == NULL ? -1 : PyDict_SetItemString(found, key, text);
    Py_XDECREF(text);
    return status;
}

/* The next line, without its end. 1; 0 when it is not complete or holds anything but printable ASCII. */
static int next_line(struct text *rest, struct text *line) {
    line->start = rest->start;
    for (Py_ssize_t i = 0; i < rest->size; i++) {
        unsigned char c = (unsigned char)rest->start[i];
        if (c == '\r') {
            if (i + 1 >= rest->size || rest->start[i + 1] != '\n') {
                return 0;
            }
            line->size = i;
            rest->start += i + 2;
            rest->size -= i + 2;
            return 1;
        }
        if (c < ' ' || c > '~') {
            return 0;
        }
    }
    return 0;
}

/* "GET /path?query HTTP/1.1" */
static int read_request_line(struct text line, struct text *method, struct text *path, struct text *query,
                             struct text *version) {
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
    static const char protocol[] = " HTTP/1.";
    const char *space = memchr(line.start, ' ', (size_t)line.size);
    Py_ssize_t tail = (Py_ssize_t)sizeof protocol; /* with the digit in the place of the NUL */
    if (space == NULL || line.size < tail) {
        return 0;
    }
    *method = (struct text){line.start, space - line.start};
    size_t known = 0;
    while (known < sizeof methods / sizeof *methods && (strlen(methods[known]) != (size_t)method->size ||
                                                        memcmp(methods[known], line.start, (size_t)method->size))) {
        known++;
    }
    const char *target = space + 1, *end = line.start + line.size - tail;
    if (known == sizeof methods / sizeof *methods || end <= target || *target != '/' ||
        memcmp(end, protocol, sizeof protocol - 1) != 0 || end[tail - 1] < '0' || end[tail - 1] > '9' ||
        memchr(target, ' ', (size_t)(end - target)) != NULL) {
        return 0;
    }
    *version = (struct text){end + tail - 3, 3};
    const char *mark = memchr(target, '?', (size_t)(end - target));
    *path = (struct text){target, (mark != NULL ? mark : end) - target};
    *query = mark != NULL ? (struct text){mark + 1, end - mark - 1} : (struct text){NULL, 0};
    return path->size <= MAX_TEXT && query->size <= MAX_TEXT;
}

/* "Name: value" becomes http.header.name, and Host the authority. 1; 0 for what is not ordinary; -1 with an exception
 * set. */
static int read_header(struct text line, PyObject *found, struct text *authority) {
    static const char prefix[] = "http.header.";
    char key[sizeof prefix + MAX_NAME];
    const char *colon = memchr(line.start, ':', (size_t)line.size);
    Py_ssize_t size = colon == NULL ? 0 : colon - line.start;
    if (size == 0 || size > MAX_NAME) {
        return 0;
    }
    memcpy(key, prefix, sizeof prefix - 1);
    for (Py_ssize_t i = 0; i < size; i++) {
        if (!is_token((unsigned char)line.start[i])) {
            return 0;
        }
        key[sizeof prefix - 1 + (size_t)i] = lower(line.start[i]);
    }
    key[sizeof prefix - 1 + (size_t)size] = 0;
    struct text value = {colon + 1, line.size - size - 1};
    while (value.size > 0 && *value.start == ' ') {
        value.start++;
        value.size--;
    }
    while (value.size > 0 && value.start[value.size - 1] == ' ') {
        value.size--;
    }
    Py_ssize_t before = PyDict_Size(found);
    if (value.size > MAX_TEXT) {
        return 0;
    }
    if (put(found, key, value) < 0) {
        return -1;
    }
    if (strcmp(key + sizeof prefix - 1, "host") == 0) {
        *authority = value;
    }
    return PyDict_Size(found) > before; /* else there were two of the same name */
}

/* http.authority and http.host. */
static int read_authority(struct text authority, PyObject *found) {
    char host[MAX_TEXT];
    if (authority.size == 0) {
        return 1;
    }
    if (memchr(authority.start, '@', (size_t)authority.size) != NULL || *authority.start == '[') {
        return 0;
    }
    const char *colon = memchr(authority.start, ':', (size_t)authority.size);
    struct text name = {host, colon == NULL ? authority.size : colon - authority.start};
    for (Py_ssize_t i = 0; i < name.size; i++) {
        host[i] = lower(authority.start[i]);
    }
    if (name.size > 0 && host[name.size - 1] == '.') {
        name.size--;
    }
    return put(found, "http.authority", authority) < 0 || put(found, "http.host", name) < 0 ? -1 : 1;
}

/* The attributes that routing.l7.http1 finds in the head of a request; None where that must look. */
PyObject *read_request(const char *data, Py_ssize_t size) {
    struct text rest = {data, size}, line, method, path, query, version, authority = {NULL, 0};
    if (!next_line(&rest, &line) || !read_request_line(line, &method, &path, &query, &version)) {
        Py_RETURN_NONE;
    }
    PyObject *found = PyDict_New();
    int status = found == NULL || put(found, "http.method", method) < 0 || put(found, "http.version", version) < 0 ||
                         put(found, "http.path", path) < 0 ||
                         (query.start != NULL && put(found, "http.query", query) < 0)
                     ? -1
                     : 1;
    for (int headers = 0; status > 0; headers++) {
        status = headers <= MAX_HEADERS && next_line(&rest, &line);
        if (status > 0 && line.size == 0) {
            break;
        }
        status = status > 0 ? read_header(line, found, &authority) : status;
    }
    status = status > 0 ? read_authority(authority, found) : status;
    if (status > 0) {
        return found;
    }
    Py_XDECREF(found);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* http_request(data): see read_request. */
PyObject *k_http_request(ARGS) {
    char *data;
    Py_ssize_t size;
    (void)module;
    if (arity("http_request", nargs, 1) < 0 || as_bytes(args[0], &data, &size) < 0) {
        return NULL;
    }
    return read_request(data, size);
}
