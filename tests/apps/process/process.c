/*
 * A C module for POSIX functions, as the tests need them: forks, working directory, umask, a fork that hangs.
 *
 * Needs no Lua header: the functions that it calls are the same in every Lua.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#if LUA_IS_51
typedef ptrdiff_t integer;
extern integer lua_tointeger(void *state, int index);
static integer to_integer(void *state, int index) { return lua_tointeger(state, index); }
#else
typedef long long integer;
extern integer lua_tointegerx(void *state, int index, int *is_number);
static integer to_integer(void *state, int index) { return lua_tointegerx(state, index, NULL); }
#endif
extern const char *lua_tolstring(void *state, int index, size_t *length);
extern void lua_pushinteger(void *state, integer value);
extern void lua_pushcclosure(void *state, int (*function)(void *), int upvalues);
extern void lua_createtable(void *state, int array, int hash);
extern void lua_setfield(void *state, int index, const char *name);

static int give(void *state, integer value)
{
    lua_pushinteger(state, value);
    return 1;
}

static int forked(void *state) { return give(state, fork()); }

/* The system call, without the C library's handlers. */
static int cloned(void *state) { return give(state, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

/* The exit status of a child, or the signal that ended it as a negative number. */
static int waited(void *state)
{
    int status = 0;
    if (waitpid((pid_t)to_integer(state, 1), &status, 0) < 0)
        return give(state, -1000);
    return give(state, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static int changed_directory(void *state) { return give(state, chdir(lua_tolstring(state, 1, NULL))); }

static int changed_umask(void *state) { return give(state, umask((mode_t)to_integer(state, 1))); }

static void hang_unless_first(void)
{
    static int forks;
    while (++forks > 1)
        pause();
}

/* The second fork of this process from now on never returns. A child of the first fork hangs in its own first fork. */
static int hang_in_second_fork(void *state)
{
    return give(state, pthread_atfork(hang_unless_first, NULL, NULL));
}

int luaopen_process(void *state)
{
    lua_createtable(state, 0, 6);
    lua_pushcclosure(state, forked, 0);
    lua_setfield(state, -2, "fork");
    lua_pushcclosure(state, cloned, 0);
    lua_setfield(state, -2, "clone");
    lua_pushcclosure(state, waited, 0);
    lua_setfield(state, -2, "wait");
    lua_pushcclosure(state, changed_directory, 0);
    lua_setfield(state, -2, "chdir");
    lua_pushcclosure(state, changed_umask, 0);
    lua_setfield(state, -2, "umask");
    lua_pushcclosure(state, hang_in_second_fork, 0);
    lua_setfield(state, -2, "hang_in_second_fork");
    return 1;
}
