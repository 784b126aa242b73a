"""Functions whose cold starts are measured, in modules of their own: a container imports no more than its function needs."""
