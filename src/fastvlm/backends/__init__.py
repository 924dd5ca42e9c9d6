"""What computes: each backend runs the same network behind the protocol in `base.py`."""
