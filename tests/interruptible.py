"""The program as a terminal would start it: Ctrl-C reaches it.

A shell that runs the tests in the background has its children ignore SIGINT, and they would inherit that.
"""

INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "fastvlm"
from fastvlm.cli.app import main
main()
"""
