/*
 * Hostile code inside a worker: it finds the worker's link to the gateway and writes invalid messages to it.
 * `hostile(NAME, SERIAL)` for Lua: the name of the trick, and the number of the request over the worker's lifetime.
 *
 * Needs no Lua header: a C function gets the state as a pointer, and `lua_tolstring` is the same in every Lua.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

extern const char *lua_tolstring(void *state, int index, size_t *length);

enum { READY = 1, START_FAILED, HEAD, BODY, END, LOG, MEASURED, STACK, ANSWERING, FILE_PART };

#define LARGEST (200 * 1024)
#define CHUNK (64 * 1024)

static uint32_t serial;
static unsigned char packet[2 * LARGEST];
static size_t length;

/* The only descriptor of a worker that is a SOCK_SEQPACKET socket. */
static int find_link(void)
{
    for (int fd = 3; fd < 1024; fd++) {
        int type = 0;
        socklen_t size = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET)
            return fd;
    }
    abort();
}

static void bytes(const void *from, size_t count)
{
    memcpy(packet + length, from, count);
    length += count;
}

static void byte(unsigned char value) { bytes(&value, 1); }
static void number(uint32_t value) { bytes(&value, 4); } /* little-endian, as x86-64 and AArch64 are */

static void answering(uint32_t which)
{
    byte(ANSWERING);
    number(which);
}

static void blob(unsigned char tag, const void *from, size_t count)
{
    byte(tag);
    number((uint32_t)count);
    bytes(from, count);
}

static void text(unsigned char tag, const char *from) { blob(tag, from, strlen(from)); }

static void line(unsigned char level, const char *from)
{
    byte(LOG);
    byte(level);
    number((uint32_t)strlen(from));
    bytes(from, strlen(from));
    number(0); /* no fields */
}

static void end(void)
{
    byte(END);
    byte(1);
}

static ssize_t post(int link)
{
    ssize_t sent = send(link, packet, length, MSG_NOSIGNAL);
    length = 0;
    return sent;
}

static void complete_response(const char *body)
{
    answering(serial);
    text(HEAD, "Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n");
    text(BODY, body);
    end();
}

static void with_descriptors(int link, const char *path, int count)
{
    int descriptors[253];
    for (int i = 0; i < count; i++)
        descriptors[i] = open(path, O_RDONLY | O_NONBLOCK);
    union {
        char space[CMSG_SPACE(sizeof descriptors)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec vector = { packet, length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.space,
                              .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(header), descriptors, sizeof(int) * (size_t)count);
    if (sendmsg(link, &message, MSG_NOSIGNAL) < 0)
        abort();
    length = 0;
    for (int i = 0; i < count; i++)
        close(descriptors[i]);
}

/* A file as the rest of the body. */
static void file_part(uint64_t offset, uint64_t size)
{
    byte(FILE_PART);
    bytes(&offset, 8);
    bytes(&size, 8);
}

/* Sends messages until the other side closes or this process is killed. */
static void flood(int link, int tag, size_t size)
{
    static unsigned char filler[CHUNK];
    memset(filler, 'x', sizeof filler);
    if (tag == BODY) {
        answering(serial);
        text(HEAD, "Status: 200 OK\r\n\r\n");
        post(link);
    }
    do {
        if (tag == BODY)
            answering(serial);
        byte((unsigned char)tag);
        if (tag == LOG)
            byte(0); /* the level debug, which is not written by default */
        number((uint32_t)size);
        bytes(filler, size);
        if (tag == LOG)
            number(0); /* no fields */
    } while (post(link) >= 0);
}

static int is(const char *name, const char *other) { return strcmp(name, other) == 0; }

#include "lane.h"

static void act(int link, const char *name)
{
    if (strncmp(name, "lane_", 5) == 0)
        act_on_lane(link, name + 5);
    if (is(name, "garbage")) {
        uint32_t state = 0x9e3779b9;
        for (int i = 0; i < 300; i++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            byte((unsigned char)(state | 0x80));
        }
    } else if (is(name, "unknown_tag")) {
        byte(77);
    } else if (is(name, "past_the_end")) {
        answering(serial);
        byte(BODY), number(0xffffffff);
    } else if (is(name, "truncated")) {
        answering(serial);
        byte(HEAD), number(30), bytes("Status: 2", 9);
    } else if (is(name, "empty")) {
        length = 0;
    } else if (is(name, "ready")) {
        byte(READY);
    } else if (is(name, "two_heads")) {
        answering(serial);
        text(HEAD, "Status: 200 OK\r\n\r\n"), text(HEAD, "Status: 200 OK\r\n\r\n");
    } else if (is(name, "body_first")) {
        answering(serial);
        text(BODY, "body");
    } else if (is(name, "empty_body")) {
        answering(serial);
        text(BODY, "");
    } else if (is(name, "longer")) {
        answering(serial);
        text(HEAD, "Content-Length: 3\r\n\r\n"), text(BODY, "bo"), text(BODY, "dy");
    } else if (is(name, "shorter")) {
        answering(serial);
        text(HEAD, "Content-Length: 5\r\n\r\n"), text(BODY, "body"), end();
    } else if (is(name, "end_first")) {
        answering(serial);
        end();
    } else if (is(name, "end_twice")) {
        complete_response("honest\n");
        end();
    } else if (is(name, "late")) { /* another response, for the next request */
        complete_response("honest\n");
        byte(READY);
        complete_response("forged\n");
        byte(READY);
    } else if (is(name, "early")) {
        serial++;
        complete_response("forged\n");
    } else if (is(name, "nameless")) {
        text(HEAD, "Status: 200 OK\r\n\r\n");
    } else if (is(name, "measured")) {
        byte(MEASURED), bytes("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1", 16);
    } else if (is(name, "stack") || is(name, "stack_timeout")) {
        byte(STACK), byte(is(name, "stack_timeout")), number(5), bytes("stack", 5);
    } else if (is(name, "start_failed")) {
        text(START_FAILED, "it never started");
    } else if (is(name, "bare_cr")) {
        answering(serial);
        text(HEAD, "Status: 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n");
    } else if (is(name, "nul")) {
        answering(serial);
        blob(HEAD, "Status: 200 OK\r\nX: a\0b\r\n\r\n", 26);
    } else if (is(name, "split")) { /* a second response inside the head */
        answering(serial);
        text(HEAD, "Status: 200 OK\r\n\r\nStatus: 200 OK\r\n\r\n");
    } else if (is(name, "no_head")) {
        answering(serial);
        text(HEAD, "HTTP/1.1 200 OK\r\nX: y\r\n\r\n");
    } else if (is(name, "transfer_encoding")) {
        answering(serial);
        text(HEAD, "Status: 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    } else if (is(name, "long_body")) {
        answering(serial);
        text(HEAD, "Status: 200 OK\r\n\r\n");
        byte(BODY), number(CHUNK + 1);
        length += CHUNK + 1;
    } else if (is(name, "oversized")) {
        int size = 2 * LARGEST;
        setsockopt(link, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
        length = LARGEST + 1;
    } else if (is(name, "many_lines")) {
        while (length < LARGEST - 100)
            line(1, "line");
    } else if (is(name, "descriptor") || is(name, "descriptors")) {
        line(0, "with descriptors");
        with_descriptors(link, "/dev/null", is(name, "descriptor") ? 1 : 253);
        pause();
    } else if (strncmp(name, "file_", 5) == 0) {
        const char *what = name + 5;
        answering(serial);
        text(HEAD, is(what, "part") ? "Content-Length: 2000\r\n\r\n" : "Content-Length: 1000\r\n\r\n");
        file_part(is(what, "beyond") ? UINT64_MAX : 0, is(what, "nothing") ? 0 : 1000);
        if (is(what, "twice"))
            file_part(0, 1000);
        if (is(what, "and_body"))
            text(BODY, "body");
        if (is(what, "short") || is(what, "device") || is(what, "directory") || is(what, "pipe"))
            end();
        if (!is(what, "missing"))
            with_descriptors(link, getenv(what) ? getenv(what) : "/dev/null", 1);
    } else if (is(name, "shutdown") || is(name, "close")) {
        is(name, "close") ? close(link) : shutdown(link, SHUT_RDWR);
        for (;;)
            pause();
    } else if (is(name, "lines")) {
        flood(link, LOG, 20);
    } else if (is(name, "large_lines")) {
        flood(link, LOG, CHUNK);
    } else if (is(name, "bodies")) {
        flood(link, BODY, CHUNK);
    } else if (is(name, "heir")) { /* a child that goes on after the worker's death */
        if (fork() == 0)
            flood(link, LOG, 20);
        _exit(0);
    } else if (is(name, "thief")) { /* says that it is ready, and never answers the next request */
        complete_response("honest\n");
        byte(READY);
        post(link);
        recv(link, packet, sizeof packet, 0);
        for (;;)
            pause();
    } else {
        abort();
    }
    if (post(link) < 0)
        abort();
    /* The gateway has to kill this process. */
    for (;;)
        pause();
}

int hostile(void *state)
{
    serial = (uint32_t)strtoul(lua_tolstring(state, 2, NULL), NULL, 10);
    act(find_link(), lua_tolstring(state, 1, NULL));
    return 0;
}
