"""What an experiment is, how it is run and how it is recorded."""

import logging

# Where bitsandbytes is installed, its import warns on some CPUs that a kernel is missing, quantised or not. The kernel
# has no backward pass and is kept out of use (`registry/loading.py`). Said here, so that workers and MLflow's server
# hear it too.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
