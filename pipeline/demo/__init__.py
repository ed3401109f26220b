"""The demo: a shop with the tracker on it, traffic through every door, a receiver, and figures that are checked."""
