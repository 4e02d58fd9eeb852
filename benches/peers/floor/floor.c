/* The floor: the least a FastCGI server can do. Answers every request on a Unix socket with the same response, which it
 * reads from a file at the start; keep-alive, one thread, epoll. Looks at record headers only, never at parameters.
 *
 *     cc -O2 -o floor floor.c && ./floor /path/to.sock response      (a CGI response: head, empty line, body)
 *
 * A benchmark, not a server: it trusts its client, and expects one request at a time on a connection.
 */
#define _GNU_SOURCE /* accept4 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* RECORD is the longest content of a record that needs no padding. */
enum { HEADER = 8, STDIN = 5, STDOUT = 6, END_REQUEST = 3, KEEP_CONN = 1, RECORD = 65528, CONNECTIONS = 4096, EVENTS = 64 };

/* What is known of the connection on each descriptor. */
struct connection {
    unsigned char header[HEADER];
    unsigned have;         /* bytes of the header that have arrived */
    unsigned skip;         /* bytes of content and padding still to come */
    unsigned content_seen; /* bytes of BEGIN_REQUEST's content that have arrived */
    int keep;
};

static struct connection connections[CONNECTIONS];
static unsigned char *answer;
static size_t answer_length;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void append(unsigned char type, const char *content, size_t length) {
    size_t padding = -length % HEADER;
    unsigned char header[HEADER] = {1, type, 0, 1, length >> 8, length & 255, padding, 0};
    answer = realloc(answer, answer_length + HEADER + length + padding);
    if (!answer)
        fail("realloc");
    memset(answer + answer_length, 0, HEADER + length + padding);
    memcpy(answer + answer_length, header, HEADER);
    memcpy(answer + answer_length + HEADER, content, length);
    answer_length += HEADER + length + padding;
}

static void compose(const char *path) {
    static char content[RECORD];
    size_t length;
    FILE *file = fopen(path, "rb");
    if (!file)
        fail(path);
    while ((length = fread(content, 1, sizeof content, file)) > 0)
        append(STDOUT, content, length);
    if (ferror(file))
        fail(path);
    fclose(file);
    append(STDOUT, "", 0);
    append(END_REQUEST, "\0\0\0\0\0\0\0\0", 8);
}

/* Takes the bytes that arrived; how many requests they completed. */
static int take(struct connection *c, const unsigned char *bytes, size_t count) {
    int completed = 0;
    while (count > 0) {
        if (c->skip > 0) {
            /* The third byte of BEGIN_REQUEST's content holds the flags. */
            if (c->header[1] == 1 && c->content_seen <= 2 && c->content_seen + count > 2)
                c->keep = bytes[2 - c->content_seen] & KEEP_CONN;
            size_t part = count < c->skip ? count : c->skip;
            c->content_seen += part;
            c->skip -= part;
            bytes += part;
            count -= part;
            continue;
        }
        c->header[c->have++] = *bytes++;
        count--;
        if (c->have == HEADER) {
            unsigned length = c->header[4] << 8 | c->header[5];
            c->have = 0;
            c->content_seen = 0;
            c->skip = length + c->header[6];
            completed += c->header[1] == STDIN && length == 0;
        }
    }
    return completed;
}

/* Reads what there is and answers; 0 when the connection is to be closed. */
static int serve(int fd) {
    static unsigned char bytes[65536];
    ssize_t count = read(fd, bytes, sizeof bytes);
    if (count < 0)
        return errno == EAGAIN;
    if (count == 0)
        return 0;
    for (int left = take(&connections[fd], bytes, count); left > 0; left--)
        if (write(fd, answer, answer_length) != (ssize_t)answer_length || !connections[fd].keep)
            return 0;
    return 1;
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: floor SOCKET RESPONSE\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    compose(argv[2]);
    signal(SIGPIPE, SIG_IGN); /* a client that leaves is no reason to stop */
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, CONNECTIONS) < 0)
        fail(argv[1]);
    chmod(argv[1], 0660);
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll");
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (!serve(fd))
                    close(fd);
                continue;
            }
            int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (client < 0)
                continue;
            if (client >= CONNECTIONS) {
                close(client);
                continue;
            }
            memset(&connections[client], 0, sizeof connections[client]);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = client};
            if (epoll_ctl(poll, EPOLL_CTL_ADD, client, &event) < 0)
                fail("epoll");
        }
    }
}
