import os
import subprocess
import sys

KEEPING = """
import resource
import torch
from lifeline.scorer.allocator import keep_memory

assert keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(4_000_000)
before = faults()
for _ in range(20):
    torch.ones(4_000_000)
print(faults() - before)
"""
SHARING = """
import ctypes, os, sys, tempfile, threading
from lifeline.scorer.allocator import share_heaps

if sys.argv[1] == "shared":
    assert share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
go, done = threading.Event(), threading.Barrier(33)
def take():
    go.wait()
    libc.free(libc.malloc(1_000))
    done.wait()
threads = [threading.Thread(target=take) for _ in range(32)]
for thread in threads:
    thread.start()
go.set()
done.wait()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fopen(file.name.encode(), b"w")
    assert libc.malloc_info(0, stream) == 0
    libc.fclose(stream)
    print(open(file.name).read().count("<heap nr="))
"""


def run(code: str, *arguments: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    return int(done.stdout)


def test_memory_that_was_freed_is_taken_again_without_asking_the_kernel() -> None:
    # 20 times 16 MB are 78,000 pages.
    assert run(KEEPING) < 1_000


def test_threads_share_a_heap_a_processor() -> None:
    processors = os.cpu_count() or 1
    assert run(SHARING, "shared") <= processors
    if processors < 16:
        assert run(SHARING, "alone") > processors
