"""From the layout of the authors' checkpoints to ours: a file a method."""
