"""php-fpm with OPcache.

`pm = static`, OPcache without a look at the files' times, no access log, a persistent connection to SQLite. A
new connection for each request, because a kept one holds a process of the pool.
"""

import glob

from peers import FOLDER, Peer, is_root, write

# Debian has the version in its name.
BINARY = max(glob.glob("/usr/sbin/php-fpm*"), default="php-fpm")


def command(setting, limits=""):
    """Starts the pool; `limits` are more lines of its configuration."""
    user = "user = root\ngroup = root" if is_root() else ""
    configuration = write(setting, FOLDER / "php_fpm/php-fpm.conf", USER=user, LIMITS=limits)
    return [BINARY, "--nodaemonize", "--allow-to-run-as-root", "--php-ini", FOLDER / "php_fpm/php.ini", "--fpm-config", configuration]


PEERS = [Peer(
    name="php_fpm",
    label="php-fpm (PHP, OPcache)",
    programs=(BINARY,),
    version=(BINARY, "--version"),
    command=command,
    location=FOLDER / "php_fpm/location.conf",
)]
