"""Training of a network from nothing, on pictures drawn while it runs: stages as data, one loop, exact resume."""
