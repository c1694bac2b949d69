"""The command line: arguments become one call each. No ideas of its own."""
