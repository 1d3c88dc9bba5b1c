/* The head of an ordinary HTTP/1 request, read in one step: most first bytes are one. */
#include "kernel.h"

/* What is no ordinary request is read by routing/l7/http1.py, and whatever is read here is read alike there
 * (tests/unit/kernel/test_request.py): origin-form, printable ASCII, CRLF, every line a header with a name of its own.
 */
enum { MAX_NAME = 128, MAX_TEXT = 4096 };

static int is_token(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != 0 && strchr("!#$%&'*+.^_`|~-", c) != NULL);
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static int is_alike(struct text one, const char *other, Py_ssize_t size) {
    Py_ssize_t i = 0;
    while (one.size == size && i < size && lower(one.start[i]) == lower(other[i])) {
        i++;
    }
    return one.size == size && i == size;
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
static int read_request_line(struct text line, struct request *request) {
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
    static const char protocol[] = " HTTP/1.";
    const char *space = memchr(line.start, ' ', (size_t)line.size);
    Py_ssize_t tail = (Py_ssize_t)sizeof protocol; /* with the digit in the place of the NUL */
    if (space == NULL || line.size < tail) {
        return 0;
    }
    request->method = (struct text){line.start, space - line.start};
    size_t known = 0;
    while (known < sizeof methods / sizeof *methods &&
           (strlen(methods[known]) != (size_t)request->method.size ||
            memcmp(methods[known], line.start, (size_t)request->method.size))) {
        known++;
    }
    const char *target = space + 1, *end = line.start + line.size - tail;
    if (known == sizeof methods / sizeof *methods || end <= target || *target != '/' ||
        memcmp(end, protocol, sizeof protocol - 1) != 0 || end[tail - 1] < '0' || end[tail - 1] > '9' ||
        memchr(target, ' ', (size_t)(end - target)) != NULL) {
        return 0;
    }
    request->version = (struct text){end + tail - 3, 3};
    const char *mark = memchr(target, '?', (size_t)(end - target));
    request->path = (struct text){target, (mark != NULL ? mark : end) - target};
    request->query = mark != NULL ? (struct text){mark + 1, end - mark - 1} : (struct text){NULL, 0};
    return request->path.size <= MAX_TEXT && request->query.size <= MAX_TEXT;
}

static const struct header *header_of(const struct request *request, const char *name, Py_ssize_t size) {
    for (int i = 0; i < request->count; i++) {
        if (is_alike(request->headers[i].name, name, size)) {
            return &request->headers[i];
        }
    }
    return NULL;
}

/* "Name: value". 1; 0 for what is not ordinary, and for a name that was there before. */
static int read_header(struct text line, struct request *request) {
    const char *colon = memchr(line.start, ':', (size_t)line.size);
    if (colon == NULL || request->count == MAX_HEADERS) {
        return 0;
    }
    struct header header = {{line.start, colon - line.start}, {colon + 1, 0}};
    if (header.name.size == 0 || header.name.size > MAX_NAME) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < header.name.size; i++) {
        if (!is_token((unsigned char)header.name.start[i])) {
            return 0;
        }
    }
    header.value.size = line.size - header.name.size - 1;
    while (header.value.size > 0 && *header.value.start == ' ') {
        header.value.start++;
        header.value.size--;
    }
    while (header.value.size > 0 && header.value.start[header.value.size - 1] == ' ') {
        header.value.size--;
    }
    if (header.value.size > MAX_TEXT || header_of(request, header.name.start, header.name.size) != NULL) {
        return 0;
    }
    request->headers[request->count++] = header;
    return 1;
}

/* Of Host: host[:port]. 1, or 0 for what is not ordinary. */
static int read_authority(struct request *request) {
    const struct header *header = header_of(request, "host", 4);
    request->authority = header == NULL ? (struct text){NULL, 0} : header->value;
    request->host = request->authority;
    if (request->authority.size == 0) {
        return 1;
    }
    const char *start = request->authority.start;
    if (memchr(start, '@', (size_t)request->authority.size) != NULL || *start == '[') {
        return 0;
    }
    const char *colon = memchr(start, ':', (size_t)request->authority.size);
    request->host.size = colon == NULL ? request->authority.size : colon - start;
    if (request->host.size > 0 && start[request->host.size - 1] == '.') {
        request->host.size--;
    }
    return 1;
}

/* Where the parts of an ordinary request's head are in `data`. 1; 0 for any other. */
int read_request(const char *data, Py_ssize_t size, struct request *request) {
    struct text rest = {data, size}, line;
    request->count = 0;
    if (!next_line(&rest, &line) || !read_request_line(line, request)) {
        return 0;
    }
    while (next_line(&rest, &line)) {
        if (line.size == 0) {
            request->head = (struct text){data, rest.start - data};
            return read_authority(request);
        }
        if (!read_header(line, request)) {
            return 0;
        }
    }
    return 0;
}

static PyObject *string_of(struct text text) {
    return text.start == NULL ? NULL : PyUnicode_FromStringAndSize(text.start, text.size);
}

static PyObject *lowered(struct text text) {
    char buffer[MAX_TEXT];
    for (Py_ssize_t i = 0; i < text.size; i++) {
        buffer[i] = lower(text.start[i]);
    }
    return PyUnicode_FromStringAndSize(buffer, text.size);
}

static const char PREFIX[] = "http.header.";
enum { PREFIX_SIZE = sizeof PREFIX - 1 };

/* An attribute by its name. NULL: the request has none such; or with an exception set. */
PyObject *request_attribute(const struct request *request, const char *name, Py_ssize_t size) {
    const struct {
        const char *name;
        const struct text *text;
    } parts[] = {{"http.method", &request->method},
                 {"http.version", &request->version},
                 {"http.path", &request->path},
                 {"http.query", &request->query},
                 {"http.authority", &request->authority}};
    if (size > PREFIX_SIZE && memcmp(name, PREFIX, PREFIX_SIZE) == 0) {
        const struct header *header = header_of(request, name + PREFIX_SIZE, size - PREFIX_SIZE);
        return header == NULL ? NULL : string_of(header->value);
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i].name, name) == 0) {
            return parts[i].text->size == 0 && i == 4 ? NULL : string_of(*parts[i].text);
        }
    }
    return strcmp(name, "http.host") == 0 && request->authority.size > 0 ? lowered(request->host) : NULL;
}

/* Put one into a dictionary, if there is such. */
static int put(PyObject *found, const struct request *request, const char *name, Py_ssize_t size) {
    PyObject *value = request_attribute(request, name, size);
    int status = value == NULL ? (PyErr_Occurred() ? -1 : 0) : PyDict_SetItemString(found, name, value);
    Py_XDECREF(value);
    return status;
}

/* The attributes that routing.l7.http1 finds in the head of a request. NULL with an exception set. */
static PyObject *attributes_of(const struct request *request) {
    static const char *const parts[] = {"http.method", "http.version",   "http.path",
                                        "http.query",  "http.authority", "http.host"};
    PyObject *found = PyDict_New();
    int status = found == NULL ? -1 : 0;
    for (size_t i = 0; status == 0 && i < sizeof parts / sizeof *parts; i++) {
        status = put(found, request, parts[i], (Py_ssize_t)strlen(parts[i]));
    }
    for (int i = 0; status == 0 && i < request->count; i++) {
        char name[PREFIX_SIZE + MAX_NAME + 1];
        Py_ssize_t size = PREFIX_SIZE + request->headers[i].name.size;
        memcpy(name, PREFIX, PREFIX_SIZE);
        for (Py_ssize_t at = PREFIX_SIZE; at < size; at++) {
            name[at] = lower(request->headers[i].name.start[at - PREFIX_SIZE]);
        }
        name[size] = 0;
        status = put(found, request, name, size);
    }
    if (status < 0) {
        Py_CLEAR(found);
    }
    return found;
}

/* http_request(data): the attributes; None for what is not ordinary. */
PyObject *k_http_request(ARGS) {
    char *data;
    Py_ssize_t size;
    struct request request;
    (void)module;
    if (arity("http_request", nargs, 1) < 0 || as_bytes(args[0], &data, &size) < 0) {
        return NULL;
    }
    return read_request(data, size, &request) ? attributes_of(&request) : Py_NewRef(Py_None);
}
