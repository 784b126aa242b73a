"""The images of the functions that are measured."""

import modal

plain = modal.Image.debian_slim()
science = plain.pip_install("numpy==2.2.6", "pandas==2.2.3", "starlette==0.46.2")
