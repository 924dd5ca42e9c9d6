"""Files and modules: finding, fetching, reading, writing and converting checkpoints."""
