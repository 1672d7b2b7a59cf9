"""What an experiment is, how it is run and how it is recorded."""

import logging

# Where bitsandbytes is installed, its import warns on some CPUs that a kernel is missing, quantised or not. The kernel
# has no backward pass and is never used (`registry/models/loading.py`). Set here, so that it holds in workers and in
# MLflow's server too.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
