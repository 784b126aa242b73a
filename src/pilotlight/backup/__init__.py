"""Copies of a state directory: made while the platform runs, put back into an empty place, whole or not at all."""
