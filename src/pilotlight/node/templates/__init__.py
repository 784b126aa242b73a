"""Warm starts: containers forked from a process that has the image's Python and the client's modules loaded already."""
