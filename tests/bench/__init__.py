"""Compares pydisk with other ways to serve a disk, in the same run, on the same machine."""
