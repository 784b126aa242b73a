"""A day of a cloud on a virtual clock: the real policies of `core/` beside those that others have published."""
