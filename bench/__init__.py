"""jetplane beside its rivals, on one topology, in one run. `python -m bench`; README.md here says how to read it."""
