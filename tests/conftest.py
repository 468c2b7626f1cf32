"""Settings of every test."""

import os

# The networks here are so small that threads only wait for each other, for seconds where cores are shared. The
# environment is for the processes that tests start, which read it when they load PyTorch.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

torch.set_num_threads(1)
