#!/usr/bin/env python3
"""How long an fsync takes while another file is being written.

    fsync-while-streaming.py DIR [MIB]

Appends 4 KiB to a file in DIR and calls fsync, again and again, while another process writes MIB (1024) mebibytes in calls of
1 MiB. Prints a line of JSON: the median, the 99th percentile and the longest in milliseconds, how many there were, the rate of the
stream, and the bound: four times as long as 32 MiB take at the rate of a stream by itself, synced at its end.
"""
import json, os, subprocess, sys, time

if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
    sys.exit(__doc__.strip())
folder, mib = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 1024
STREAM = """
import os, sys
data = os.urandom(1 << 20)
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
for _ in range(int(sys.argv[2])):
    os.write(file, data)
os.fsync(file)
"""

def stream():
    return subprocess.Popen([sys.executable, "-c", STREAM, os.path.join(folder, "stream"), str(mib)])

began = time.monotonic()
if stream().wait() != 0:
    sys.exit("the stream failed")
alone = mib / (time.monotonic() - began)

took = []
log = os.open(os.path.join(folder, "log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
began, writer = time.monotonic(), stream()
while writer.poll() is None:
    before = time.monotonic()
    os.write(log, bytes(4096))
    os.fsync(log)
    took.append((time.monotonic() - before) * 1000)
rate = mib / (time.monotonic() - began)
if writer.returncode != 0:
    sys.exit("the stream failed")
for name in ("stream", "log"):
    os.unlink(os.path.join(folder, name))
took.sort()
print(json.dumps({
    "p50_ms": round(took[len(took) // 2], 2), "p99_ms": round(took[len(took) * 99 // 100], 2), "max_ms": round(took[-1], 2),
    "fsyncs": len(took), "stream_mib_s": round(rate), "alone_mib_s": round(alone), "bound_ms": round(4 * 32 / alone * 1000),
}))
