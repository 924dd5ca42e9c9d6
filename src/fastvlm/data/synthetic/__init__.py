"""The small world that `nano` is trained on: pictures drawn from a seed, and questions about them."""
