import subprocess
import sys

CODE = """
import resource
import torch
from scorer.train.allocator import keep_memory

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


def test_memory_that_was_freed_is_taken_again_without_asking_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=60)
    # 20 times 16 MB are 78,000 pages.
    assert int(done.stdout) < 1_000
