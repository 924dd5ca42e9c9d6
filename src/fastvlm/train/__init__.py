"""Training: recipes made of stages, one loop, checkpoints that resume exactly."""
