"""How fast, measured side by side: the way of the released pipeline against ours, in one run."""
