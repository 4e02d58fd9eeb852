/* The application on libfcgi, the FastCGI library of the protocol's own authors: one request after the other.
 *
 *     cc -O2 -o app app.c -lfcgi -lsqlite3
 *
 * Expects the listening socket as descriptor 0, as every starter of FastCGI programs gives it.
 */
#include <fcgiapp.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DOWN = 65536, HEADERS = 20 };

static sqlite3 *database;
static sqlite3_stmt *statement;
static char down[DOWN];

static void answer(FCGX_Stream *out, const char *type, const char *extra, const char *body, int length) {
    FCGX_FPrintF(out, "Status: 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n", type, length, extra);
    FCGX_PutStr(body, length, out);
}

static void text(FCGX_Stream *out, const char *body) {
    answer(out, "text/plain", "", body, strlen(body));
}

static void json(FCGX_Stream *out) {
    static const char body[] = "{\"id\":500,\"name\":\"item 500\",\"price\":12.5,\"tags\":[\"a\",\"b\",\"c\"],\"in_stock\":true}\n";
    char headers[HEADERS * 40], *end = headers;
    for (int i = 1; i <= HEADERS; i++)
        end += sprintf(end, "X-Header-%d: value %d\r\n", i, i);
    answer(out, "application/json", headers, body, sizeof body - 1);
}

static void up(FCGX_Stream *in, FCGX_Stream *out) {
    char block[8192], body[32];
    int taken = 0;
    for (int count; (count = FCGX_GetStr(block, sizeof block, in)) > 0;)
        taken += count;
    sprintf(body, "%d\n", taken);
    text(out, body);
}

static void query(FCGX_Stream *out, const char *parameters) {
    char body[64];
    /* A connection of this process, opened at its first request. */
    if (!database && (sqlite3_open_v2(getenv("BENCH_DATABASE"), &database, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
                      sqlite3_prepare_v2(database, "SELECT name FROM item WHERE id = ?", -1, &statement, NULL) != SQLITE_OK))
        exit(1);
    sqlite3_bind_int(statement, 1, atoi(parameters + strlen("id=")));
    if (sqlite3_step(statement) != SQLITE_ROW)
        exit(1);
    snprintf(body, sizeof body, "%s\n", sqlite3_column_text(statement, 0));
    sqlite3_reset(statement);
    text(out, body);
}

static void slow(FCGX_Stream *out, const char *parameters) {
    if (strcmp(parameters, "wait") == 0)
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    text(out, "Hello, World!\n");
}

int main(void) {
    FCGX_Request request;
    memset(down, 'x', sizeof down);
    if (FCGX_Init() || FCGX_InitRequest(&request, 0, 0))
        return 1;
    while (FCGX_Accept_r(&request) == 0) {
        const char *path = FCGX_GetParam("DOCUMENT_URI", request.envp);
        const char *parameters = FCGX_GetParam("QUERY_STRING", request.envp);
        if (strcmp(path, "/hello") == 0)
            text(request.out, "Hello, World!\n");
        else if (strcmp(path, "/json") == 0)
            json(request.out);
        else if (strcmp(path, "/up") == 0)
            up(request.in, request.out);
        else if (strcmp(path, "/down") == 0)
            answer(request.out, "application/octet-stream", "", down, sizeof down);
        else if (strcmp(path, "/sqlite") == 0)
            query(request.out, parameters);
        else
            slow(request.out, parameters);
        FCGX_Finish_r(&request);
    }
    return 0;
}
