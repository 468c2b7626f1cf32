"""Settings of every test."""

import torch

# The networks here are so small that threads only wait for each other, for seconds where cores are shared.
torch.set_num_threads(1)
