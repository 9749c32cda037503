"""A directory at the head of a warm interpreter's search path; see ``sitecustomize.py``."""
