"""Compiles, loads, pins, attaches and feeds the BPF programs. `node.DataPlane` is the way in."""
