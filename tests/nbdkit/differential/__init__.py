"""The same plugins and the same clients on nbdkit and on pydisk: python3 -m differential --help."""
