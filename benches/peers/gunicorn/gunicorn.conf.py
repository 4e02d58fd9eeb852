# Sync workers: Gunicorn's default, made for a proxy that buffers. @NAMES@ are filled in.
bind = "unix:@SOCKET@"
workers = @WORKERS@
worker_class = "sync"
backlog = @BACKLOG@
chdir = "@FOLDER@"
# The workers' heartbeat is a file: its FAQ advises memory in place of a disk.
worker_tmp_dir = "/dev/shm"
accesslog = None
loglevel = "warning"
