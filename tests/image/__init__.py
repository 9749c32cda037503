"""The project's own image, built and run by real engines; by hand, see ``__main__``."""
