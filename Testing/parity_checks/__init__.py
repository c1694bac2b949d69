"""What ``parity.py`` compares: records of the released networks, read from fixtures, against ours."""
