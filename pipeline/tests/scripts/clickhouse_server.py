"""Run a real ClickHouse server, HTTP interface only, out of libchdb.so.

`chdb_query_cmdline` is `clickhouse local`, which knows SYSTEM START LISTEN: from then on the server's own HTTP handler
answers.  The query after it reads a named pipe and so lasts until TERM or Ctrl-C writes to that pipe; the library then
closes its tables and the process ends.

usage: clickhouse_server.py LIBRARY DIR HTTP_PORT CONFIG_XML
"""
import ctypes
import os
import signal
import sys
import threading

library, directory, port, config = sys.argv[1:5]
data = os.path.join(directory, "data")
fifo = os.path.join(directory, "stop.fifo")
os.makedirs(data, exist_ok=True)
if os.path.exists(fifo):
    os.unlink(fifo)
os.mkfifo(fifo)

chdb = ctypes.CDLL(library)
chdb.chdb_set_signal_handlers_enabled(0)  # our own TERM and INT handlers stay in force
chdb.chdb_query_cmdline.restype = ctypes.c_void_p
chdb.chdb_query_cmdline.argtypes = [ctypes.c_int, ctypes.c_void_p]
chdb.chdb_result_error.restype = ctypes.c_char_p
chdb.chdb_result_error.argtypes = [ctypes.c_void_p]

query = (
    "SYSTEM START LISTEN HTTP; "
    f"SELECT count() FROM file('{fifo}', 'LineAsString', 'l String') SETTINGS storage_file_read_method='read'"
)
arguments = [
    "clickhouse",
    f"--config-file={config}",
    f"--path={data}",
    "--listen_host=127.0.0.1",
    f"--http_port={port}",
    "--query",
    query,
]


def serve():
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*[a.encode() for a in arguments], None)
    result = chdb.chdb_query_cmdline(len(arguments), ctypes.cast(argv, ctypes.c_void_p))
    error = chdb.chdb_result_error(result) if result else b"no result at all"
    if error:
        sys.stderr.write(error.decode(errors="replace") + "\n")
        sys.stderr.flush()
    os._exit(1 if error else 0)


def stop(*_):
    # In a thread: opening the pipe blocks until the server reads it, which it may not do yet.
    def write():
        with open(fifo, "w") as pipe:
            pipe.write("stop\n")

    threading.Thread(target=write, daemon=True).start()


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
threading.Thread(target=serve, daemon=True).start()
while True:
    signal.pause()
