"""What all projects build on."""

import os

# Large arrays of torch come from the system anew each time. In huge pages that is many times cheaper on a CPU
# (measured: ReLU of 115 MB 15 times as fast). Read by torch at its first allocation; no effect where the system
# has no huge pages.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
