"""What the node says about itself: figures in, bytes out, served by a process that can reach nothing else.

Nothing here imports what can name a peer. The exporter cannot leak what it cannot reach.
"""
